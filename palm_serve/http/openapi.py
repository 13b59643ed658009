"""The description of the routes as OpenAPI 3.1, from the models that read requests and from models of the answers.

Connect and gRPC-Web are described by `protos/`, and are not repeated here.
"""

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from palm_serve.http.huggingface import TextClassificationRequest, TokenClassificationRequest
from palm_serve.http.inference_json import InferRequest, Parameters
from palm_serve.http.plain_json import json_bytes
from palm_serve.http.rasa import RasaRequest

_REF = "#/components/schemas/{model}"
_JSON = "application/json"


class Error(BaseModel):
    """An error."""

    error: str
    """What is wrong, and what to do."""


class RasaError(BaseModel):
    """An error in the words of Rasa."""

    version: str
    """Version of Rasa whose API this is."""
    status: str
    """Always `failure`."""
    message: str
    """What is wrong, and what to do."""
    reason: str
    """Word for the status, such as `BadRequest`."""
    details: dict[str, str]
    help: str | None
    code: int
    """HTTP status."""


class RasaIntent(BaseModel):
    """An intent. Its name is null where the model has no intents."""

    name: str | None
    confidence: float
    """Calibrated probability, 0 to 1."""


class RasaEntity(BaseModel):
    """A span of the text, with `value == text[start:end]` in code points."""

    entity: str
    """Name of the slot."""
    start: int
    """First code point of the span."""
    end: int
    """Code point behind the span."""
    value: str
    """The span, or what it stands for by the synonyms of the model."""
    confidence_entity: float
    """Probability of the whole span, 0 to 1."""
    extractor: str
    """Always `PALM`."""
    role: str | None = None
    confidence_role: float | None = None
    group: str | None = None
    confidence_group: float | None = None


class RasaAnswer(BaseModel):
    """A message that was understood."""

    text: str
    """The message."""
    intent: RasaIntent
    """The best intent, or that of the fallback."""
    entities: list[RasaEntity]
    """Spans in the order of the text."""
    intent_ranking: list[RasaIntent]
    """Intents by confidence."""


class RasaVersion(BaseModel):
    """The version of Rasa whose API this is."""

    version: str
    minimum_compatible_version: str


class RasaStatus(BaseModel):
    """The model that answers by default."""

    model_file: str
    model_id: str
    num_active_training_jobs: int


class ClassificationLabel(BaseModel):
    """A label and its probability."""

    label: str
    """Name of the class."""
    score: float
    """Calibrated probability, 0 to 1."""


class TokenEntity(BaseModel):
    """A span of the text, in code points."""

    entity_group: str
    """Name of the slot."""
    score: float
    """Probability of the whole span, 0 to 1."""
    word: str
    """The span, as the text has it."""
    start: int
    """First code point of the span."""
    end: int
    """Code point behind the span."""


class InferResponseOutput(BaseModel):
    """One output tensor. Binary values follow the JSON."""

    name: str
    """Name of the output, such as `intent.label`."""
    datatype: str
    """`BYTES`, `FP32` or `BOOL`."""
    shape: list[int]
    """Size of each axis."""
    parameters: Parameters | None = None
    """`binary_data_size`, where the values follow the JSON."""
    data: list[str | float | bool] | None = None
    """The values. Absent where they follow the JSON."""


class InferResponse(BaseModel):
    """The answer of an inference."""

    model_name: str
    """Name of the model that answered."""
    model_version: str
    """Digest of its bundle."""
    id: str | None = None
    """Id of the request."""
    outputs: list[InferResponseOutput]
    """The outputs that were asked for, or all of the tasks that read the inputs."""


class Live(BaseModel):
    """True: the server answers."""

    live: bool


class Ready(BaseModel):
    """True if every model is ready."""

    ready: bool


class ModelReady(BaseModel):
    """True if a model is ready."""

    name: str
    ready: bool


class ServerMetadata(BaseModel):
    """The server and its extensions."""

    name: str
    version: str
    extensions: list[str]
    """Extensions of the protocol that the server answers."""


class TensorMetadata(BaseModel):
    """An input or an output. -1 in its shape is any number."""

    name: str
    datatype: str
    """`BYTES`, `FP32` or `BOOL`."""
    shape: list[int]


class ModelMetadata(BaseModel):
    """The inputs and outputs of a model."""

    name: str
    versions: list[str]
    """Digests of the versions in service."""
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    properties: dict[str, str] = {}
    """Further facts about the model."""


_ROUTES: tuple[tuple[str, str, str, type[BaseModel] | None, type[BaseModel] | None, int], ...] = (
    ("post", "/model/parse", "Understand a message (Rasa)", RasaRequest, RasaAnswer, 0),
    ("get", "/version", "Version of the API of Rasa", None, RasaVersion, 0),
    ("get", "/status", "Model that answers by default (Rasa)", None, RasaStatus, 0),
    ("post", "/hf/text-classification", "Rank the labels of texts", TextClassificationRequest, ClassificationLabel, 2),
    ("post", "/hf/token-classification", "Find spans in texts", TokenClassificationRequest, TokenEntity, 1),
    ("get", "/v2", "Name and extensions of the server", None, ServerMetadata, 0),
    ("get", "/v2/health/live", "Liveness", None, Live, 0),
    ("get", "/v2/health/ready", "Readiness", None, Ready, 0),
    ("get", "/v2/models/{model}", "Inputs and outputs of a model", None, ModelMetadata, 0),
    ("get", "/v2/models/{model}/ready", "Readiness of a model", None, ModelReady, 0),
    ("post", "/v2/models/{model}/infer", "Answer texts (Open Inference Protocol)", InferRequest, InferResponse, 0),
)
"""Method, path, summary, request and element of the response of each route, and how many lists hold that element."""
_RASA_PATHS = ("/model/parse", "/version", "/status")
_QUERIES = {
    "/model/parse": ("model", "version", "token"),
    "/hf/text-classification": ("model", "version", "task"),
    "/hf/token-classification": ("model", "version", "task"),
}


def openapi() -> dict[str, Any]:
    """Return the description."""
    models: dict[type[BaseModel], None] = {Error: None, RasaError: None}
    for _, _, _, request, response, _ in _ROUTES:
        for model in (request, response):
            if model is not None:
                models[model] = None
    _, definitions = models_json_schema([(model, "validation") for model in models], ref_template=_REF)
    paths: dict[str, Any] = {}
    for method, path, summary, request, response, depth in _ROUTES:
        operation = _operation(path, summary, request, response, depth)
        paths.setdefault(path, {})[method] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "palm-serve", "version": "1", "description": "Text in, typed answers out."},
        "paths": paths,
        "components": {
            "schemas": definitions["$defs"],
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"bearer": []}],
    }


def openapi_json() -> bytes:
    """Return the description as JSON."""
    return json_bytes(openapi())


def _operation(
    path: str, summary: str, request: type[BaseModel] | None, response: type[BaseModel] | None, depth: int
) -> dict[str, Any]:
    error = RasaError if path in _RASA_PATHS else Error
    operation: dict[str, Any] = {"summary": summary, "operationId": summary}
    parameters: list[dict[str, Any]] = []
    if "{model}" in path:
        parameters.append({"name": "model", "in": "path", "required": True, "schema": {"type": "string"}})
    for name in _QUERIES.get(path, ()):
        parameters.append({"name": name, "in": "query", "schema": {"type": "string"}})
    if parameters:
        operation["parameters"] = parameters
    if request is not None:
        operation["requestBody"] = {"required": True, "content": {_JSON: {"schema": _reference(request)}}}
    answer: dict[str, Any] = {"description": "The answer"}
    if response is not None:
        schema: dict[str, Any] = _reference(response)
        for _ in range(depth):
            schema = {"type": "array", "items": schema}
        if path == "/hf/token-classification":
            # One list for a single text, and a list of lists for several.
            schema = {"anyOf": [schema, {"type": "array", "items": schema}]}
        answer["content"] = {_JSON: {"schema": schema}}
    fault = {"description": "An error", "content": {_JSON: {"schema": _reference(error)}}}
    if path.endswith("/ready") and response is not None:
        unready = {"anyOf": [_reference(response), _reference(error)]}
        fault = {"description": "Not ready, or an error", "content": {_JSON: {"schema": unready}}}
    operation["responses"] = {"200": answer, "default": fault}
    return operation


def _reference(model: type[BaseModel]) -> dict[str, Any]:
    return {"$ref": _REF.format(model=model.__name__)}

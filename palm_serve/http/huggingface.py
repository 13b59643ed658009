"""Routes with the JSON of Hugging Face's inference API: text and token classification.

`huggingface_hub.InferenceClient(model=URL)` posts to the URL itself, so the model and the task are in its query:
`/hf/text-classification?model=demo&task=intent`. Offsets count code points.

Sources: @huggingface/tasks, text-classification and token-classification; huggingface_hub, `InferenceClient`.
"""

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BaseModel, Field
from starlette.routing import Route

from palm_serve.bundle.manifest import Manifest, Role
from palm_serve.config import Limits
from palm_serve.decoding import label_names
from palm_serve.errors import InvalidRequest
from palm_serve.http.context import HttpContext
from palm_serve.http.endpoint import Answer, Endpoint
from palm_serve.http.json_body import read_json
from palm_serve.http.open_inference import describe_error
from palm_serve.http.plain_json import json_bytes
from palm_serve.rpc.access.tokens import Scope
from palm_serve.rpc.call_handling import HandlerFactory
from palm_serve.rpc.grpc_server import Services
from palm_serve.rpc.messages.status import item_error
from palm_serve.rpc.messages.wire import max_fields
from palm_serve.v1 import palm_pb2 as pb

TopK = Annotated[int, Field(ge=1, le=2**31 - 1)]
ReadAnswer = Callable[[pb.ParseResponse], list[dict[str, Any]]]


class ClassificationParameters(BaseModel):
    """Parameters of a text classification. Others are ignored."""

    top_k: TopK | None = None
    """Number of labels. None: all."""


class TextClassificationRequest(BaseModel):
    """One text, or several, to classify."""

    inputs: str | list[str]
    """The text, or several."""
    parameters: ClassificationParameters | None = None


class TokenClassificationRequest(BaseModel):
    """One text, or several, in which to find spans. Its parameters are ignored: spans are whole."""

    inputs: str | list[str]
    """The text, or several."""


def routes(services: Services, factory: HandlerFactory, limits: Limits) -> list[Route]:
    """Return the routes.

    Args:
        services: the services.
        factory: creates the handlers of calls.
        limits: limits of one client.
    """
    door = _HuggingFace(services, factory, limits)
    max_bytes = limits.message_bytes
    table: list[tuple[str, Answer]] = [
        ("/hf/text-classification", door.classify_texts),
        ("/hf/token-classification", door.classify_tokens),
    ]
    return [Route(path, Endpoint(answer, describe_error, max_bytes), methods=["POST"]) for path, answer in table]


class _HuggingFace:
    """Answers of the routes. A list of texts is a ParseBatch, all of whose texts must be answered."""

    def __init__(self, services: Services, factory: HandlerFactory, limits: Limits) -> None:
        self._services = services
        self._factory = factory
        self._max_items = limits.batch_items
        self._max_fields = max_fields(limits)

    async def classify_texts(self, context: HttpContext) -> bytes:
        """Rank the labels of each text."""
        choice = _Choice(self._services, context, "intent", "a classifier of texts")

        def read(body: bytes) -> tuple[str | list[str], int]:
            request = read_json(TextClassificationRequest, body, self._max_fields)
            top_k = None if request.parameters is None else request.parameters.top_k
            return request.inputs, top_k or choice.label_count()

        return await self._ask(context, choice, read, _labels, always_listed=True)

    async def classify_tokens(self, context: HttpContext) -> bytes:
        """Find the spans of each text."""
        choice = _Choice(self._services, context, "slots", "a task that finds spans")

        def read(body: bytes) -> tuple[str | list[str], int]:
            return read_json(TokenClassificationRequest, body, self._max_fields).inputs, 0

        return await self._ask(context, choice, read, _entities, always_listed=False)

    async def _ask(
        self,
        context: HttpContext,
        choice: "_Choice",
        read_inputs: Callable[[bytes], tuple[str | list[str], int]],
        read_answer: ReadAnswer,
        always_listed: bool,
    ) -> bytes:
        """Answer one text or several.

        Args:
            context: the HTTP request.
            choice: the task that is asked.
            read_inputs: returns the texts of a body, and the length of rankings.
            read_answer: returns the elements of an answer.
            always_listed: answer a single text with a list of one answer.
        """
        is_single = False

        def read(body: bytes) -> pb.ParseBatchRequest:
            nonlocal is_single
            inputs, top_k = read_inputs(body)
            is_single = isinstance(inputs, str)
            message = pb.ParseBatchRequest()
            texts = [inputs] if isinstance(inputs, str) else inputs
            if len(texts) > self._max_items:
                raise InvalidRequest(
                    f"inputs must have at most {self._max_items:,} items, got {len(texts):,}. Send several requests.",
                    "inputs",
                )
            for text in texts:
                message.requests.append(choice.request(text, top_k))
            return message

        def write(response: pb.ParseBatchResponse) -> bytes:
            answers: list[list[dict[str, Any]]] = []
            for item in response.items:
                if item.HasField("error"):
                    raise item_error(item.error)
                answers.append(read_answer(item.response))
            return json_bytes(answers[0] if is_single and not always_listed else answers)

        method = self._services.dialogue.parse_batch
        return await self._factory.exchange("ParseBatch", read, method, write, Scope.PARSE)(None, context)


class _Choice:
    """The model and the task of a request, from its query.

    Args:
        services: the services.
        context: the request.
        role: role of the task that answers by default.
        noun: what the task must be, for the message.
    """

    def __init__(self, services: Services, context: HttpContext, role: Role, noun: str) -> None:
        query = context.query
        self._services = services
        self._model = query.get("model", "")
        self._version = query.get("version", "")
        self._task = query.get("task", "")
        self._role = role
        self._noun = noun

    def _manifest(self) -> Manifest:
        """Return the manifest of the model. Raises NotFound."""
        return self._services.registry.get(self._model, self._version).manifest

    def task(self) -> str:
        """Return the name of the task. Raises NotFound, InvalidRequest."""
        manifest = self._manifest()
        name = self._task or manifest.task_with_role(self._role)
        if not name:
            raise InvalidRequest(
                f"model '{manifest.name}' must have {self._noun} with the role '{self._role}', got none. "
                "Name a task in the query, as in ?task=NAME.",
                "task",
            )
        return name

    def label_count(self) -> int:
        """Return the number of labels of the task. Raises NotFound, InvalidRequest."""
        task = self._manifest().tasks.get(self.task())
        return 0 if task is None else len(label_names(task))

    def request(self, text: str, top_k: int) -> pb.ParseRequest:
        """Return the request for one text. Raises NotFound, InvalidRequest."""
        return pb.ParseRequest(text=text, model=self._model, version=self._version, tasks=[self.task()], top_k=top_k)


def _labels(response: pb.ParseResponse) -> list[dict[str, Any]]:
    ranking = response.ranking
    for result in response.results:
        ranking = result.classification.ranking
    if not ranking:
        raise InvalidRequest("task must name a classifier of texts, got another task. Correct the query.", "task")
    return [{"label": label.name, "score": label.confidence} for label in ranking]


def _entities(response: pb.ParseResponse) -> list[dict[str, Any]]:
    slots = response.slots
    is_other_task = response.HasField("intent")
    for result in response.results:
        is_other_task |= not result.HasField("spans")
        slots = result.spans.spans
    if is_other_task:
        raise InvalidRequest("task must name one that finds spans, got another task. Correct the query.", "task")
    entities: list[dict[str, Any]] = []
    for slot in slots:
        entity = {
            "entity_group": slot.name,
            "score": slot.confidence,
            "word": slot.value,
            "start": slot.start,
            "end": slot.end,
        }
        if slot.HasField("resolved"):
            entity["canonical"] = slot.resolved.canonical
        entities.append(entity)
    return entities

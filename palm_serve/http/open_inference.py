"""Routes of the Open Inference Protocol v2, REST, and of Triton's extensions that its clients use."""

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from google.protobuf.message import Message
from starlette.routing import Route

from palm_serve.config import Limits
from palm_serve.http.context import HttpContext
from palm_serve.http.endpoint import Answer, Endpoint
from palm_serve.http.inference_json import BINARY_HEADER, Inference
from palm_serve.http.plain_json import json_bytes, plain, plain_json
from palm_serve.http.statuses import HttpFailure
from palm_serve.oip import inference_pb2 as oip
from palm_serve.rpc.access.tokens import Scope
from palm_serve.rpc.call import Call
from palm_serve.rpc.call_handling import HandlerFactory
from palm_serve.rpc.messages.wire import max_fields
from palm_serve.rpc.oip.service import OpenInferenceService

_EXTENSION = "binary_tensor_data"
_MODEL = "/v2/models/{model}"
_MODEL_PATHS = (_MODEL, _MODEL + "/versions/{version}")
_UNSUPPORTED = (
    "/v2/logging",
    "/v2/trace/setting",
    _MODEL + "/trace/setting",
    "/v2/{kind:path}sharedmemory/{rest:path}",
)
_BINARY_TYPE = "application/octet-stream"

Method = Callable[[Any, Call], Awaitable[Any]]


def routes(service: OpenInferenceService, factory: HandlerFactory, limits: Limits) -> list[Route]:
    """Return the routes.

    Args:
        service: answers the requests.
        factory: creates the handlers of calls.
        limits: limits of one client.
    """
    door = _OpenInference(service, factory, max_fields(limits))
    max_bytes = limits.message_bytes
    table: list[tuple[str, str, Answer]] = [
        ("GET", "/v2", door.server_metadata),
        ("GET", "/v2/health/live", door.live),
        ("GET", "/v2/health/ready", door.ready),
        ("GET", "/v2/models/stats", door.statistics),
        ("POST", "/v2/repository/index", door.index),
        ("POST", "/v2/repository/models/{model}/load", door.load),
        ("POST", "/v2/repository/models/{model}/unload", door.unload),
    ]
    infer: list[tuple[str, str, Answer]] = []
    for path in _MODEL_PATHS:
        infer.append(("POST", path + "/infer", door.infer))
        table += [
            ("GET", path, door.model_metadata),
            ("GET", path + "/ready", door.model_ready),
            ("GET", path + "/config", door.config),
            ("GET", path + "/stats", door.statistics),
        ]
    all_routes: list[Route] = []
    for method, path, answer in infer + table:
        all_routes.append(Route(path, Endpoint(answer, describe_error, max_bytes), methods=[method]))
    for path in _UNSUPPORTED:
        all_routes.append(Route(path, Endpoint(_unsupported, describe_error, max_bytes), methods=["GET", "POST"]))
    return all_routes


def describe_error(failed: HttpFailure) -> bytes:
    """Describe an error as the protocol does."""
    return json_bytes({"error": failed.message})


async def _unsupported(context: HttpContext) -> bytes:
    context.status = HTTPStatus.BAD_REQUEST
    return json_bytes({"error": f"{context.scope['path'][:64]} is not supported by this server."})


class _OpenInference:
    """Answers of the routes, each by the method of the service that gRPC calls too."""

    def __init__(self, service: OpenInferenceService, factory: HandlerFactory, max_fields: int) -> None:
        self._max_fields = max_fields
        self._service = service
        self._factory = factory

    async def _ask(
        self,
        context: HttpContext,
        name: str,
        request: Message,
        method: Method,
        scope: Scope,
        write: Callable[[Any], bytes] = plain_json,
    ) -> bytes:
        """Make one call whose request is in the path.

        Args:
            context: the HTTP request.
            name: name of the method.
            request: the message.
            method: method of the service.
            scope: scope that it requires.
            write: returns the body of the response.
        """
        return await self._factory.exchange(name, lambda body: request, method, write, scope)(None, context)

    async def infer(self, context: HttpContext) -> bytes:
        """Answer one batch of texts."""
        values = context.path_values
        json_length = context.headers.get(BINARY_HEADER, "")
        inference = Inference(values["model"], values.get("version", ""), json_length, self._max_fields)
        exchange = self._factory.exchange(
            "ModelInfer", inference.read, self._service.model_infer, inference.write, Scope.PARSE
        )
        body = await exchange(None, context)
        if inference.response_json_length is not None:
            context.media_type = _BINARY_TYPE
            context.response_headers.append((BINARY_HEADER, str(inference.response_json_length)))
        return body

    async def live(self, context: HttpContext) -> bytes:
        """Return true: the server answers."""
        return await self._ask(context, "ServerLive", oip.ServerLiveRequest(), self._service.server_live, Scope.HEALTH)

    async def ready(self, context: HttpContext) -> bytes:
        """Return whether every model is ready, with the status 503 if not."""

        def write(response: oip.ServerReadyResponse) -> bytes:
            context.status = HTTPStatus.OK if response.ready else HTTPStatus.SERVICE_UNAVAILABLE
            return plain_json(response)

        return await self._ask(
            context, "ServerReady", oip.ServerReadyRequest(), self._service.server_ready, Scope.HEALTH, write
        )

    async def model_ready(self, context: HttpContext) -> bytes:
        """Return whether a version is loaded and ready, with the status 503 if not, or 404 where there is none."""
        name, version = context.path_values["model"], context.path_values.get("version", "")

        def write(response: oip.ModelReadyResponse) -> bytes:
            if not response.ready:
                missing = self._service.is_missing(name, version)
                context.status = HTTPStatus.NOT_FOUND if missing else HTTPStatus.SERVICE_UNAVAILABLE
            return json_bytes({"name": name, "ready": response.ready})

        request = oip.ModelReadyRequest(name=name, version=version)
        return await self._ask(context, "ModelReady", request, self._service.model_ready, Scope.HEALTH, write)

    async def server_metadata(self, context: HttpContext) -> bytes:
        """Return the name and version of the server, and its extensions."""

        def write(response: oip.ServerMetadataResponse) -> bytes:
            content = plain(response)
            content["extensions"].append(_EXTENSION)
            return json_bytes(content)

        return await self._ask(
            context, "ServerMetadata", oip.ServerMetadataRequest(), self._service.server_metadata, Scope.READ, write
        )

    async def model_metadata(self, context: HttpContext) -> bytes:
        """Describe the inputs and outputs of one version."""
        values = context.path_values
        request = oip.ModelMetadataRequest(name=values["model"], version=values.get("version", ""))
        return await self._ask(context, "ModelMetadata", request, self._service.model_metadata, Scope.READ)

    async def config(self, context: HttpContext) -> bytes:
        """Return the configuration of one version."""
        values = context.path_values
        request = oip.ModelConfigRequest(name=values["model"], version=values.get("version", ""))

        def write(response: oip.ModelConfigResponse) -> bytes:
            return plain_json(response.config)

        return await self._ask(context, "ModelConfig", request, self._service.model_config, Scope.READ, write)

    async def statistics(self, context: HttpContext) -> bytes:
        """Return the statistics of one version, of a model, or of all models."""
        values = context.path_values
        request = oip.ModelStatisticsRequest(name=values.get("model", ""), version=values.get("version", ""))
        return await self._ask(context, "ModelStatistics", request, self._service.model_statistics, Scope.READ)

    async def index(self, context: HttpContext) -> bytes:
        """List every loaded version, and the bundles that cannot be loaded."""

        def write(response: oip.RepositoryIndexResponse) -> bytes:
            return json_bytes([plain(model) for model in response.models])

        request = oip.RepositoryIndexRequest()
        return await self._ask(context, "RepositoryIndex", request, self._service.repository_index, Scope.READ, write)

    async def load(self, context: HttpContext) -> bytes:
        """Load a model."""
        request = oip.RepositoryModelLoadRequest(model_name=context.path_values["model"])
        return await self._ask(context, "RepositoryModelLoad", request, self._service.load, Scope.CONTROL)

    async def unload(self, context: HttpContext) -> bytes:
        """Unload a model."""
        request = oip.RepositoryModelUnloadRequest(model_name=context.path_values["model"])
        return await self._ask(context, "RepositoryModelUnload", request, self._service.unload, Scope.CONTROL)

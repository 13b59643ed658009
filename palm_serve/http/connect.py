"""Routes of Connect and gRPC-Web, for the unary methods of `palm_serve.v1` and the health check.

    POST /palm_serve.v1.DialogueUnderstanding/Parse       application/json, application/proto, application/grpc-web[+proto]
    GET  /palm_serve.v1.DialogueUnderstanding/Parse?connect=v1&encoding=json&message=...

The library `connectrpc` is not used on this side. It reads and parses a message before its own code could tell who sends it,
and parses without a limit of the fields. Its client is what the tests call with.

Sources: connectrpc.com/docs/protocol; grpc/grpc, doc/PROTOCOL-WEB.md.
"""

from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from google.protobuf.descriptor_pb2 import MethodOptions
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from starlette.routing import Route

from palm_serve.errors import InvalidRequest
from palm_serve.http.connect_codec import (
    ENCODINGS,
    GRPC_WEB_TYPES,
    ConnectCodec,
    GrpcWebCodec,
    describe_error,
    read_query,
)
from palm_serve.http.context import HttpContext, Receive, Scope, Send
from palm_serve.http.endpoint import Endpoint, refuse
from palm_serve.http.statuses import HttpFailure
from palm_serve.rpc.access.tokens import Scope as TokenScope
from palm_serve.rpc.call_handling import EarlyRefusal, HandlerFactory
from palm_serve.rpc.grpc_server import DIALOGUE, HEALTH, MODELS, PREDICTION, Services
from palm_serve.v1 import palm_pb2 as pb

_JSON_TYPE = "application/json"


@dataclass(frozen=True, slots=True)
class _Method:
    """One unary method."""

    service: str
    name: str
    request: type[Message]
    call: Any
    scope: TokenScope
    early_refusal: EarlyRefusal | None = None

    @property
    def has_no_side_effects(self) -> bool:
        """True if it may be called by GET."""
        descriptor = pb.DESCRIPTOR.services_by_name.get(self.service.rpartition(".")[2])
        if descriptor is None:
            return False
        level = descriptor.methods_by_name[self.name].GetOptions().idempotency_level
        return bool(level == MethodOptions.NO_SIDE_EFFECTS)


def routes(services: Services, door: str, max_bytes: int, max_fields: int) -> list[Route]:
    """Return the routes.

    Args:
        services: the services.
        door: name of the transport in records.
        max_bytes: largest body of a request.
        max_fields: largest number of fields of a message.
    """
    dialogue, prediction, models = services.dialogue, services.prediction, services.models
    methods = [
        _Method(DIALOGUE, "Parse", pb.ParseRequest, dialogue.parse, TokenScope.PARSE, dialogue.early_refusal),
        _Method(DIALOGUE, "ParseBatch", pb.ParseBatchRequest, dialogue.parse_batch, TokenScope.PARSE),
        _Method(
            PREDICTION, "Predict", pb.PredictRequest, prediction.predict, TokenScope.PARSE, prediction.early_refusal
        ),
        _Method(MODELS, "ListModels", pb.ListModelsRequest, models.list_models, TokenScope.READ),
        _Method(MODELS, "GetModel", pb.GetModelRequest, models.get_model, TokenScope.READ),
        _Method(MODELS, "LoadModel", pb.LoadModelRequest, models.load_model, TokenScope.CONTROL),
        _Method(MODELS, "UnloadModel", pb.UnloadModelRequest, models.unload_model, TokenScope.CONTROL),
        _Method(HEALTH, "Check", health_pb2.HealthCheckRequest, services.health.check, TokenScope.HEALTH),
    ]
    all_routes: list[Route] = []
    for method in methods:
        endpoint = _ConnectEndpoint(method, services.factory.for_service(method.service, door), max_bytes, max_fields)
        verbs = ["GET", "POST"] if method.has_no_side_effects else ["POST"]
        all_routes.append(Route(f"/{method.service}/{method.name}", endpoint, methods=verbs))
    return all_routes


class _ConnectEndpoint:
    """ASGI application of one method."""

    def __init__(self, method: _Method, factory: HandlerFactory, max_bytes: int, max_fields: int) -> None:
        self._method = method
        self._factory = factory
        self._get = Endpoint(self._answer_get, describe_error, max_bytes)
        self._endpoints: dict[str, Endpoint] = {}
        self._codecs: dict[str, ConnectCodec | GrpcWebCodec] = {}
        for encoding in ENCODINGS:
            media_type = f"application/{encoding}"
            self._codecs[media_type] = ConnectCodec(encoding, method.request, max_fields)
            self._endpoints[media_type] = Endpoint(self._answer_post, describe_error, max_bytes)
        for media_type in set(GRPC_WEB_TYPES.values()):
            codec = GrpcWebCodec(media_type, method.request, max_fields, max_bytes)
            self._codecs[media_type] = codec
            self._endpoints[media_type] = Endpoint(
                self._answer_post, codec.describe_error, max_bytes, error_status=HTTPStatus.OK, error_type=media_type
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request by the protocol of its content type.

        Args:
            scope: the request, as ASGI describes it.
            receive: receives its body.
            send: sends the response.
        """
        if scope["method"] != "POST":
            await self._get(scope, receive, send)
            return
        endpoint = self._endpoints.get(_media_type(dict(scope["headers"]).get(b"content-type", b"").decode("latin-1")))
        if endpoint is None:
            message = "Content-Type must be application/json, application/proto or application/grpc-web. Correct it."
            status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
            failed = HttpFailure(status, "INVALID_ARGUMENT", message)
            await refuse(scope, receive, send, status, describe_error(failed))
        else:
            await endpoint(scope, receive, send)

    async def _answer_get(self, context: HttpContext) -> bytes:
        query = context.query
        context.media_type = f"application/{query.get('encoding', '')}"
        codec = self._codecs.get(context.media_type)

        def read(body: bytes) -> Message:
            if not isinstance(codec, ConnectCodec):
                raise InvalidRequest("encoding must be json or proto, got another one. Correct the query.", "encoding")
            return codec.read(read_query(query, context.max_bytes))

        return await self._exchange(context, read, self._codecs[_JSON_TYPE].write if codec is None else codec.write)

    async def _answer_post(self, context: HttpContext) -> bytes:
        context.media_type = _media_type(context.headers["content-type"])
        codec = self._codecs[context.media_type]
        return await self._exchange(context, codec.read, codec.write)

    async def _exchange(
        self, context: HttpContext, read: Callable[[bytes], Message], write: Callable[[Message], bytes]
    ) -> bytes:
        method = self._method
        exchange = self._factory.exchange(method.name, read, method.call, write, method.scope, method.early_refusal)
        return await exchange(None, context)


def _media_type(content_type: str) -> str:
    """Return the content type of the response to a request."""
    media_type = content_type.partition(";")[0].strip().lower()
    return GRPC_WEB_TYPES.get(media_type, media_type)

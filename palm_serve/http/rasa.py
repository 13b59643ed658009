"""Routes of Rasa's HTTP API that understand a message: `POST /model/parse`, `/`, `/version`, `/status`.

Rasa and Rasa Pro ask such a server where `endpoints.yml` has `nlu: {url: ...}`. Any content type is taken, because Rasa's
server parses the body as JSON whatever it says. Offsets count code points.

Sources: rasa 3.6.21, `server.py`, `core/http_interpreter.py`; RasaHQ/rasa, docs/static/spec/rasa.yml.
"""

import asyncio
import json
from typing import Any

from pydantic import BaseModel
from starlette.routing import Route

from palm_serve.bundle.values_file import RESOLVERS
from palm_serve.config import ServeOptions
from palm_serve.errors import InvalidRequest
from palm_serve.http.context import HttpContext
from palm_serve.http.endpoint import Answer, Endpoint
from palm_serve.http.json_body import read_json
from palm_serve.http.plain_json import json_bytes
from palm_serve.http.statuses import HttpFailure
from palm_serve.oip import inference_pb2 as oip
from palm_serve.rpc.access.tokens import Scope
from palm_serve.rpc.call import MAX_REQUEST_ID_BYTES
from palm_serve.rpc.call_handling import HandlerFactory
from palm_serve.rpc.grpc_server import Services
from palm_serve.v1 import palm_pb2 as pb
from palm_serve.values import SYNONYM

RASA_VERSION = "3.6.21"
"""Version of Rasa whose API this is."""
_OLDEST_VERSION = "3.0.0"
_RANKING = 10
"""Intents of a ranking, as many as Rasa's classifier gives."""
_EXTRACTOR = "PALM"
_SYNONYM_MAPPER = "EntitySynonymMapper"
"""Component of Rasa that replaces values by what synonyms stand for."""
_OFF = "off"
_EARLY_BYTES = 64 * 1024
"""Limit of a body that is read before the client is known, because only the body holds its token."""
_REASONS = {400: "BadRequest", 401: "NotAuthenticated", 403: "NotAuthorized", 404: "NotFound", 413: "BadRequest"}


class RasaRequest(BaseModel):
    """A message to understand. Other fields, such as `model`, are ignored."""

    text: str | list[str]
    """The message. Of a list, Rasa reads the first one."""
    message_id: str | None = None
    """Id of the request. Rasa sends the id of the conversation."""
    token: str | None = None
    """Access token, where it is neither in the header `Authorization` nor in the query."""


def routes(services: Services, factory: HandlerFactory, options: ServeOptions) -> list[Route]:
    """Return the routes.

    Args:
        services: the services.
        factory: creates the handlers of calls.
        options: the options of the server.
    """
    door = _Rasa(services, factory, options)
    table: list[tuple[str, str, Answer]] = [
        ("POST", "/model/parse", door.parse),
        ("GET", "/", door.greet),
        ("GET", "/version", door.version),
        ("GET", "/status", door.status),
    ]
    limit = options.limits.message_bytes
    all_routes: list[Route] = []
    for method, path, answer in table:
        all_routes.append(Route(path, Endpoint(answer, describe_error, limit), methods=[method]))
    return all_routes


def describe_error(failed: HttpFailure) -> bytes:
    """Describe an error as Rasa does."""
    content: dict[str, Any] = {
        "version": RASA_VERSION,
        "status": "failure",
        "message": failed.message,
        "reason": _REASONS.get(failed.status, "ParsingError"),
        "details": {},
        "help": None,
        "code": failed.status,
    }
    return json_bytes(content)


class _Rasa:
    """Answers of the routes."""

    def __init__(self, services: Services, factory: HandlerFactory, options: ServeOptions) -> None:
        self._services = services
        self._factory = factory
        self._needs_tokens = options.tokens is not None
        self._body_timeout_s = options.message_timeout
        fallback = options.rasa_fallback_intent
        self._fallback_intent = "" if fallback == _OFF else fallback

    async def parse(self, context: HttpContext) -> bytes:
        """Understand one message."""
        if self._needs_tokens and "authorization" not in context.headers:
            await self._find_token(context)
        query = context.query

        def read(body: bytes) -> pb.ParseRequest:
            request = read_json(RasaRequest, body)
            texts = [request.text] if isinstance(request.text, str) else request.text
            if not texts:
                raise InvalidRequest("text must not be an empty list. Send a text.", "text")
            message_id = request.message_id or ""
            if len(message_id.encode()) > MAX_REQUEST_ID_BYTES:
                message_id = ""  # Rasa does not bound the ids of conversations
            return pb.ParseRequest(
                text=texts[0],
                model=query.get("model", ""),
                version=query.get("version", ""),
                request_id=message_id,
                top_k=_RANKING,
            )

        dialogue = self._services.dialogue
        exchange = self._factory.exchange(
            "Parse", read, dialogue.parse, self._write, Scope.PARSE, dialogue.early_refusal
        )
        return await exchange(None, context)

    async def _find_token(self, context: HttpContext) -> None:
        """Take the token from the query or from the body, where Rasa's own client puts it."""
        token = context.query.get("token")
        if token is None:
            context.max_bytes = min(context.max_bytes, _EARLY_BYTES)
            try:
                async with asyncio.timeout(self._body_timeout_s):
                    token = read_json(RasaRequest, await context.read()).token
            except (InvalidRequest, TimeoutError):
                return  # refused for the missing token
        if token:
            context.headers["authorization"] = f"Bearer {token}"

    def _write(self, response: pb.ParseResponse) -> bytes:
        ranking: list[dict[str, Any]] = []
        for label in response.ranking:
            ranking.append({"name": label.name, "confidence": label.confidence})
        intent: dict[str, Any] = {"name": None, "confidence": 0.0}
        if response.HasField("intent"):
            intent = {"name": response.intent.name, "confidence": response.intent.confidence}
        if response.fallback.triggered and self._fallback_intent:
            # As Rasa's FallbackClassifier, which inserts its intent before the others.
            intent = {"name": self._fallback_intent, "confidence": self._threshold(response)}
            ranking.insert(0, intent)
        content = {
            "text": response.text,
            "intent": intent,
            "entities": [_entity(slot) for slot in response.slots],
            "intent_ranking": ranking,
        }
        return json_bytes(content)

    def _threshold(self, response: pb.ParseResponse) -> float:
        """Return the confidence that the model asks of an intent, which Rasa gives as that of the fallback."""
        manifest = self._services.registry.get(response.model, response.version).manifest
        name = manifest.task_with_role("intent")
        thresholds = manifest.tasks[name].thresholds if name else None
        return getattr(thresholds, "intent_confidence", None) or 1.0

    async def greet(self, context: HttpContext) -> bytes:
        """Say what answers here."""
        context.media_type = "text/plain; charset=utf-8"
        return await self._ask_server(context, lambda server: f"Hello from PALM: {server.version}".encode())

    async def version(self, context: HttpContext) -> bytes:
        """Return the version of Rasa whose API this is."""
        content = {"version": RASA_VERSION, "minimum_compatible_version": _OLDEST_VERSION}
        return await self._ask_server(context, lambda server: json_bytes(content))

    async def _ask_server(self, context: HttpContext, write: Any) -> bytes:
        exchange = self._factory.exchange(
            "ServerMetadata",
            lambda body: oip.ServerMetadataRequest(),
            self._services.open_inference.server_metadata,
            write,
            Scope.HEALTH,
        )
        return await exchange(None, context)

    async def status(self, context: HttpContext) -> bytes:
        """Return the model that answers by default."""

        def write(model: pb.Model) -> bytes:
            content = {"model_file": model.name, "model_id": model.version, "num_active_training_jobs": 0}
            return json_bytes(content)

        exchange = self._factory.exchange(
            "GetModel", lambda body: pb.GetModelRequest(), self._services.models.get_model, write, Scope.READ
        )
        return await exchange(None, context)


def _entity(slot: pb.Span) -> dict[str, Any]:
    entity: dict[str, Any] = {
        "entity": slot.name,
        "start": slot.start,
        "end": slot.end,
        "value": slot.value,
        "confidence_entity": slot.confidence,
        "extractor": _EXTRACTOR,
    }
    for key in ("role", "group"):
        if getattr(slot, key):
            entity[key] = getattr(slot, key)
            entity[f"confidence_{key}"] = slot.confidence
    if slot.HasField("resolved"):
        _resolve(entity, slot)
    return entity


def _resolve(entity: dict[str, Any], slot: pb.Span) -> None:
    """Set the value that a slot stands for: of a synonym as Rasa's mapper does, of a resolver as its Duckling extractor does."""
    if slot.resolved.kind == SYNONYM:
        entity["value"] = slot.resolved.canonical
        entity["processors"] = [_SYNONYM_MAPPER]
    elif slot.resolved.kind in RESOLVERS:
        entity["value"] = slot.resolved.canonical
        entity["text"] = slot.value
        entity["additional_info"] = json.loads(slot.resolved.json)

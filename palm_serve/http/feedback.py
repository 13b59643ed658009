"""Corrected answers, which become rows of training data: `POST /playground/feedback`, with `--feedback FILE`.

    {"text": "...", "fields": {"intent": "flight", "slots": [{"start": 0, "end": 6, "label": "city"}]},
     "model": "demo", "version": "...", "answer": {...}}

The keys of `fields` are the tasks of the model, and the labels are its labels. Offsets count code points. A row of the file
is what the format `jsonl` of `palm-train` reads: a key for each task, and `source`, `model`, `version` and `answer` (JSON as
a string) as they were sent.

What is saved here is trained on later, so that the route has a scope of its own, and takes nothing that a page of another
site can make a browser send: other content types, other origins.
"""

import asyncio
import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.routing import Route

from palm_serve.bundle.manifest import Manifest, TaskInfo
from palm_serve.config import Limits
from palm_serve.decoding import label_names, served_kind
from palm_serve.errors import InvalidRequest, check_text
from palm_serve.http.context import HttpContext, Receive, Scope, Send
from palm_serve.http.endpoint import Endpoint, refuse
from palm_serve.http.feedback_file import FeedbackFile
from palm_serve.http.json_body import read_json
from palm_serve.http.open_inference import describe_error
from palm_serve.http.plain_json import json_bytes
from palm_serve.rpc.access.tokens import Scope as TokenScope
from palm_serve.rpc.call import Call
from palm_serve.rpc.call_handling import HandlerFactory
from palm_serve.rpc.grpc_server import Services
from palm_serve.types import Classification, Spans
from palm_serve.v1 import palm_pb2 as pb

_MAX_BYTES = 64 * 1024
"""Limit of one correction."""
_SOURCE = "playground"
_QUOTED = 64


class CorrectedSpan(BaseModel):
    """A span of the text, in code points."""

    model_config = ConfigDict(extra="forbid")

    start: Annotated[int, Field(ge=0)]
    end: int
    label: str
    role: str = ""
    group: str = ""


class Correction(BaseModel):
    """A text with the answers that it should get."""

    model_config = ConfigDict(extra="forbid")

    text: str
    fields: Annotated[dict[str, str | list[str] | list[CorrectedSpan]], Field(min_length=1)]
    model: str = ""
    version: str = ""
    answer: dict[str, Any] = {}
    """What the model answered."""


def route(path: str, file: Path, services: Services, factory: HandlerFactory, limits: Limits) -> Route:
    """Return the route.

    Args:
        path: path of the route.
        file: file to which rows are appended.
        services: the services.
        factory: creates the handlers of calls.
        limits: limits of one client.

    Raises:
        ConfigError: the file cannot be written to.
    """
    door = _Feedback(FeedbackFile(file), services, factory, limits)
    return Route(path, _SameSite(Endpoint(door.save, describe_error, _MAX_BYTES)), methods=["POST"])


class _SameSite:
    """ASGI application that refuses what a form or a page of another site could send. `guard.py` knows allowed origins.

    Args:
        app: answers the requests that are not refused.
    """

    def __init__(self, app: Endpoint) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it.

        Args:
            scope: the request, as ASGI describes it.
            receive: receives its body.
            send: sends the response.
        """
        headers = {key: value.decode("latin-1").lower() for key, value in scope["headers"]}
        origin = headers.get(b"origin")
        if origin is not None and origin.partition("://")[2] != headers.get(b"host", ""):
            body = json_bytes(
                {"error": "corrections of other sites are refused. Send them from the server's own page."}
            )
            await refuse(scope, receive, send, 403, body)
        elif headers.get(b"content-type", "").partition(";")[0].strip() != "application/json":
            body = json_bytes({"error": "Content-Type must be application/json. Correct it."})
            await refuse(scope, receive, send, 415, body)
        else:
            await self._app(scope, receive, send)


class _Feedback:
    """Saves corrections."""

    def __init__(self, file: FeedbackFile, services: Services, factory: HandlerFactory, limits: Limits) -> None:
        self._file = file
        self._services = services
        self._factory = factory
        self._limits = limits

    async def save(self, context: HttpContext) -> bytes:
        """Save one correction."""
        correction = Correction.model_construct()

        def read(body: bytes) -> pb.ParseRequest:
            nonlocal correction
            correction = read_json(Correction, body)
            return pb.ParseRequest(text=correction.text, model=correction.model, version=correction.version)

        async def append(message: pb.ParseRequest, call: Call) -> None:
            model = self._services.registry.get(message.model, message.version)
            row = _row(correction, model.manifest, self._limits)
            row |= {"model": model.name, "version": model.version}
            await asyncio.to_thread(self._file.append, row)

        def write(saved: None) -> bytes:
            return json_bytes({"saved": True})

        exchange = self._factory.exchange("Feedback", read, append, write, TokenScope.FEEDBACK)
        return await exchange(None, context)


def _row(correction: Correction, manifest: Manifest, limits: Limits) -> dict[str, Any]:
    """Return the row of a correction. Raises InvalidRequest."""
    check_text(correction.text, "text", limits.text_bytes)
    row: dict[str, Any] = {"text": correction.text}
    for name, value in correction.fields.items():
        task = manifest.tasks.get(name)
        if task is None or name == "text":
            raise InvalidRequest(
                f"fields must name tasks of the model, got '{name[:_QUOTED]}'. It has {', '.join(manifest.tasks)}.",
                "fields",
            )
        row[name] = _checked(value, name, task, len(correction.text))
    for key, text in (("source", _SOURCE), ("answer", json.dumps(correction.answer, ensure_ascii=False))):
        row.setdefault(key, text)
    return row


def _checked(value: str | list[str] | list[CorrectedSpan], name: str, task: TaskInfo, length: int) -> Any:
    """Return the value of a field as a row holds it. Raises InvalidRequest.

    Args:
        value: the value as it was sent.
        name: name of the task.
        task: the task.
        length: code points of the text.
    """
    place = f"fields.{name}"
    kind = served_kind(task.kind)
    if kind.answer_type is Spans:
        spans = [item for item in value if isinstance(item, CorrectedSpan)]
        if isinstance(value, str) or len(spans) < len(value):
            raise InvalidRequest(f"{place} must be a list of spans. Send start, end and label of each.", place)
        return _checked_spans(spans, place, task, length)
    if kind.answer_type is not Classification or task.pairs:
        raise InvalidRequest(f"{place} must be a task that labels one text, got another one. Leave it out.", place)
    labels = [value] if isinstance(value, str) else [item for item in value if isinstance(item, str)]
    if isinstance(value, str) == kind.several_labels or not (isinstance(value, str) or len(labels) == len(value)):
        expected = "a list of labels" if kind.several_labels else "a label"
        raise InvalidRequest(f"{place} must be {expected}. Correct it.", place)
    task_labels = label_names(task)
    for label in labels:
        if label not in task_labels:
            raise InvalidRequest(
                f"{place} must be a label of the task, got '{label[:_QUOTED]}'. `GetModel` lists them.", place
            )
    return value


def _checked_spans(spans: list[CorrectedSpan], place: str, task: TaskInfo, length: int) -> list[dict[str, Any]]:
    span_types = {(kind.name, kind.role, kind.group) for kind in task.decode.span_types.values()}
    span_types |= {(name, "", "") for name in label_names(task)}
    rows: list[dict[str, Any]] = []
    previous_end = 0
    for span in sorted(spans, key=lambda span: span.start):
        if not previous_end <= span.start < span.end <= length:
            raise InvalidRequest(
                f"{place} must be ranges that do not overlap, in a text of {length:,} code points, got {span.start}-{span.end}.",
                place,
            )
        if (span.label, span.role, span.group) not in span_types:
            raise InvalidRequest(
                f"{place} must have labels of the task, got '{span.label[:_QUOTED]}'. `GetModel` lists them.", place
            )
        previous_end = span.end
        rows.append(span.model_dump(exclude_defaults=True))
    return rows

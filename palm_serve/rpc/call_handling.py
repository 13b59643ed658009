"""What happens around every call: readiness, admission, parsing, request id, deadline, status.

Services see messages and raise errors. Handlers take bytes and parse inside: grpc's own deserializer would answer a
message that does not parse with UNKNOWN and a class name.
"""

import asyncio
import copy
import logging
import time
import urllib.parse
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import DecodeError, Message

from palm_serve.errors import InvalidRequest, Overloaded
from palm_serve.rpc.access.admission import Client, Gate
from palm_serve.rpc.access.tokens import Scope
from palm_serve.rpc.lifecycle import Lifecycle, State
from palm_serve.rpc.messages.status import Failure, failure
from palm_serve.types import AnsweredText, CallRecord, Prediction

if TYPE_CHECKING:
    from palm_serve.registry import LoadedModel

log = logging.getLogger(__name__)

REQUEST_ID_KEY = "x-request-id"
SESSION_ID_KEY = "x-session-id"
"""Of a dialogue: all its turns are answered by the same version while shares stay as they are."""
_REQUEST_ID_BYTES = 256
_LONGEST = {
    REQUEST_ID_KEY: _REQUEST_ID_BYTES,
    SESSION_ID_KEY: _REQUEST_ID_BYTES,
    # Of W3C Trace Context: the caller's place in a trace.
    "traceparent": 128,
    "tracestate": 512,
}
"""Metadata that is read, and its longest value."""
_TOLD = 32
"""Answers of a call that are told one by one: a stream may hold any number."""

M = TypeVar("M", bound=Message)


@dataclass(slots=True)
class Call:
    """One call in flight. `deadline` is on the `time.monotonic()` clock, in seconds."""

    request_id: str
    deadline: float | None
    session_id: str = ""
    client: Client | None = None
    traceparent: str = ""
    tracestate: str = ""
    texts: int = 0
    answered: list[AnsweredText] = field(default_factory=list)
    request_bytes: int = 0
    response_bytes: int = 0

    def answered_by(self, model: "LoadedModel", answer: Prediction) -> None:
        """Tells who answered one of its texts."""
        self.texts += 1
        if len(self.answered) < _TOLD:
            self.answered.append(AnsweredText(model.name, model.version, answer.timings))

    def holds(self, requests: int) -> None:
        """Tells how many requests came in one message, for the client's rate."""
        if self.client is not None:
            self.client.spend(requests - 1)

    def key(self, own_id: str = "") -> str:
        """What decides which version answers, where a share of the requests goes to another; `own_id` is that of a request within the call."""
        return self.session_id or own_id or self.request_id


Observe = Callable[[CallRecord], None]
Send = Callable[[Message], Awaitable[None]]
StreamMethod = Callable[[AsyncIterator[bytes], Call, Send], Awaitable[None]]


def decode(kind: type[M], data: bytes) -> M:
    """Parses a request. Raises InvalidRequest, also where a string is not UTF-8."""
    try:
        message: M = kind.FromString(data)
    except (DecodeError, UnicodeDecodeError):
        name = kind.DESCRIPTOR.full_name
        raise InvalidRequest(
            f"the {len(data):,} bytes received are not a {name} message, or a string in it is not UTF-8"
        ) from None
    return message


def request_id(given: str) -> str:
    """The client's own id, or a new one. Raises InvalidRequest when it is too long to be echoed in a header."""
    if len(given.encode()) > _REQUEST_ID_BYTES:
        raise InvalidRequest(
            f"request_id has {len(given.encode()):,} bytes; the limit is {_REQUEST_ID_BYTES}", "request_id"
        )
    return given or uuid.uuid4().hex


class Calls:
    """Makes grpc handlers of service methods. `observe` is told of every call that has ended."""

    def __init__(
        self, lifecycle: Lifecycle, gate: Gate, observe: Observe | None = None, log_text: bool = False
    ) -> None:
        self._lifecycle = lifecycle
        self._gate = gate
        self._observe = observe
        self._log_text = log_text
        self._service = ""

    def of(self, service: str) -> "Calls":
        """The same for the methods of one service, by its full name."""
        mine = copy.copy(self)
        mine._service = service
        return mine

    def unary(
        self, name: str, kind: type[M], method: Callable[[M, Call], Awaitable[Message]], scope: Scope
    ) -> grpc.RpcMethodHandler:
        """One request, one response. Methods of the scope `health` answer also while the server loads."""

        async def handle(data: bytes, context: grpc.aio.ServicerContext) -> bytes:
            async with self._around(name, context, scope) as call:
                call.request_bytes = len(data)
                request = decode(kind, data)
                call.request_id = request_id(_own_id(request) or call.request_id)
                if self._log_text:
                    log.info("request %s: %s", call.request_id, MessageToJson(request, indent=None, ensure_ascii=False))
                response: bytes = (await method(request, call)).SerializeToString()
                call.response_bytes = len(response)
            return response

        return grpc.unary_unary_rpc_method_handler(handle)

    def stream(self, name: str, method: StreamMethod, scope: Scope) -> grpc.RpcMethodHandler:
        """Many requests, many responses. The method gets the raw messages and a function that sends a response."""

        async def handle(messages: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
            async with self._around(name, context, scope, stream=True) as call:
                await method(self._gate.paced(messages, context, scope), call, _sender(context))

        return grpc.stream_stream_rpc_method_handler(handle)

    def watch(
        self, name: str, kind: type[M], method: Callable[[M, Send], Awaitable[None]], scope: Scope
    ) -> grpc.RpcMethodHandler:
        """One request, open-ended responses."""

        async def handle(data: bytes, context: grpc.aio.ServicerContext) -> None:
            async with self._around(name, context, scope, stream=True):
                await method(decode(kind, data), _sender(context))

        return grpc.unary_stream_rpc_method_handler(handle)

    def foreign(
        self, name: str, method: Callable[[AsyncIterator[M], Any], AsyncIterator[Message]], kind: type[M], scope: Scope
    ) -> grpc.RpcMethodHandler:
        """Many requests, many responses, answered by another's servicer; the stream ends when the server drains."""

        async def handle(messages: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
            async with self._around(name, context, scope, stream=True), self._lifecycle.stream():
                requests = (decode(kind, data) async for data in self._gate.paced(messages, context, scope))
                async for response in method(requests, context):
                    await _sender(context)(response)

        return grpc.stream_stream_rpc_method_handler(handle)

    @asynccontextmanager
    async def _around(
        self, name: str, context: grpc.aio.ServicerContext, scope: Scope, stream: bool = False
    ) -> AsyncIterator[Call]:
        """Around one call: what it raises becomes its status. Cancellation passes, or grpc.aio would leak the call."""
        began_ns, call, code, reason = time.perf_counter_ns(), _call(context), grpc.StatusCode.CANCELLED, ""
        failed: Failure | None = None
        try:
            call.client = self._gate.identify(context, scope)
            with self._gate.admit(call.client, scope), self._lifecycle.call():
                if scope is not Scope.HEALTH:
                    self._lifecycle.check()
                yield call
            code = grpc.StatusCode.OK
        except asyncio.CancelledError:
            # The client left, or grpc ended the call at its deadline.
            if call.deadline is not None and time.monotonic() >= call.deadline:
                code = grpc.StatusCode.DEADLINE_EXCEEDED
            raise
        except Exception as error:
            failed = failure(error, call.request_id)
            code = failed.code
            call.client = call.client or self._gate.stranger(context)
            reason = error.reason if isinstance(error, Overloaded) else ""
        finally:
            if self._observe is not None:
                self._observe(self._record(name, scope, call, code, reason, stream, began_ns))
        if failed is not None:
            with _news_on_its_way():
                await context.abort(failed.code, failed.message, (*_echo(call), *failed.trailing_metadata()))
        context.set_trailing_metadata(_echo(call))

    def _record(
        self, name: str, scope: Scope, call: Call, code: grpc.StatusCode, reason: str, stream: bool, began_ns: int
    ) -> CallRecord:
        now = time.perf_counter_ns()
        return CallRecord(
            method=name,
            service=self._service,
            code=code.name,
            number=int(code.value[0]),
            seconds=(now - began_ns) / 1e9,
            ended_ns=now,
            request_id=call.request_id,
            client="nobody known" if call.client is None else call.client.name,
            health=scope is Scope.HEALTH,
            stream=stream,
            draining=self._lifecycle.state in (State.DRAINING, State.STOPPING),
            reason=reason,
            texts=call.texts,
            answered=call.answered,
            request_bytes=call.request_bytes,
            response_bytes=call.response_bytes,
            traceparent=call.traceparent,
            tracestate=call.tracestate,
        )


def _own_id(message: Message) -> str:
    """The id that a request carries: `request_id` in `palm_serve.v1`, `id` in the Open Inference Protocol."""
    return str(getattr(message, "request_id", "") or getattr(message, "id", ""))


def _sender(context: grpc.aio.ServicerContext) -> Send:
    async def send(message: Message) -> None:
        with _news_on_its_way():
            await context.write(message.SerializeToString())

    return send


@contextmanager
def _news_on_its_way() -> Iterator[None]:
    """Around what is sent: it cannot be where the client has left, and that is told only by what cancels the call a moment later."""
    try:
        yield
    except grpc.aio.InternalError:
        raise asyncio.CancelledError from None


def _call(context: grpc.aio.ServicerContext) -> Call:
    given = dict.fromkeys(_LONGEST, "")
    for key, value in context.invocation_metadata() or ():
        if key in given and isinstance(value, str) and not given[key] and len(value) <= _LONGEST[key]:
            given[key] = value
    remaining = context.time_remaining()
    return Call(
        given[REQUEST_ID_KEY] or uuid.uuid4().hex,
        None if remaining is None else time.monotonic() + remaining,
        given[SESSION_ID_KEY],
        traceparent=given["traceparent"],
        tracestate=given["tracestate"],
    )


def _echo(call: Call) -> tuple[tuple[str, str], ...]:
    # A header holds printable ASCII only; what else an id holds is percent-encoded.
    plain = call.request_id.isascii() and call.request_id.isprintable()
    return ((REQUEST_ID_KEY, call.request_id if plain else urllib.parse.quote(call.request_id)),)

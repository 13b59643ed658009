"""What happens around every call: readiness, admission, parsing, request id, deadline, status.

Services see messages and raise errors. Handlers take bytes and parse inside: grpc's own deserializer would answer a
message that does not parse with UNKNOWN and a class name.
"""

import asyncio
import logging
import string
import time
import urllib.parse
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import DecodeError, Message

from palm_serve.errors import InvalidRequest, Unavailable
from palm_serve.rpc.auth import Scope
from palm_serve.rpc.gate import Client, Gate
from palm_serve.rpc.lifecycle import Lifecycle, State
from palm_serve.rpc.status import Failure, failure

log = logging.getLogger(__name__)

REQUEST_ID_KEY = "x-request-id"
SESSION_ID_KEY = "x-session-id"
"""Of a dialogue: all its turns are answered by the same version while shares stay as they are."""
_REQUEST_ID_BYTES = 256
_HEADER_SAFE = string.printable[:95]

M = TypeVar("M", bound=Message)


@dataclass(slots=True)
class Call:
    """One call in flight. `deadline` is on the `time.monotonic()` clock, in seconds."""

    request_id: str
    deadline: float | None
    session_id: str = ""
    client: Client | None = None

    def holds(self, requests: int) -> None:
        """Tells how many requests came in one message, for the client's rate."""
        if self.client is not None:
            self.client.spend(requests - 1)

    def key(self, own_id: str = "") -> str:
        """What decides which version answers, where a share of the requests goes to another; `own_id` is that of a request within the call."""
        return self.session_id or own_id or self.request_id


Observe = Callable[[str, str, float], None]
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
    """Makes grpc handlers of service methods. `observe` is told of every call: method, status code, seconds."""

    def __init__(
        self, lifecycle: Lifecycle, gate: Gate, observe: Observe | None = None, log_text: bool = False
    ) -> None:
        self._lifecycle = lifecycle
        self._gate = gate
        self._observe = observe
        self._log_text = log_text

    def unary(
        self, name: str, kind: type[M], method: Callable[[M, Call], Awaitable[Message]], scope: Scope
    ) -> grpc.RpcMethodHandler:
        """One request, one response. Methods of the scope `health` answer also while the server loads."""

        async def handle(data: bytes, context: grpc.aio.ServicerContext) -> bytes:
            async with self._around(name, context, scope) as call:
                request = decode(kind, data)
                call.request_id = request_id(_own_id(request) or call.request_id)
                if self._log_text:
                    log.info("request %s: %s", call.request_id, MessageToJson(request, indent=None, ensure_ascii=False))
                response = await method(request, call)
            return bytes(response.SerializeToString())

        return grpc.unary_unary_rpc_method_handler(handle)

    def stream(self, name: str, method: StreamMethod, scope: Scope) -> grpc.RpcMethodHandler:
        """Many requests, many responses. The method gets the raw messages and a function that sends a response."""

        async def handle(messages: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
            async with self._around(name, context, scope) as call:
                await method(self._gate.paced(messages, context, scope), call, _sender(context))

        return grpc.stream_stream_rpc_method_handler(handle)

    def watch(
        self, name: str, kind: type[M], method: Callable[[M, Send], Awaitable[None]], scope: Scope
    ) -> grpc.RpcMethodHandler:
        """One request, open-ended responses."""

        async def handle(data: bytes, context: grpc.aio.ServicerContext) -> None:
            async with self._around(name, context, scope):
                await method(decode(kind, data), _sender(context))

        return grpc.unary_stream_rpc_method_handler(handle)

    def foreign(
        self, name: str, method: Callable[[AsyncIterator[M], Any], AsyncIterator[Message]], kind: type[M], scope: Scope
    ) -> grpc.RpcMethodHandler:
        """Many requests, many responses, answered by another's servicer; the stream ends when the server drains."""

        async def handle(messages: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
            async with self._around(name, context, scope), self._lifecycle.stream():
                requests = (decode(kind, data) async for data in self._gate.paced(messages, context, scope))
                async for response in method(requests, context):
                    await _sender(context)(response)

        return grpc.stream_stream_rpc_method_handler(handle)

    @asynccontextmanager
    async def _around(self, name: str, context: grpc.aio.ServicerContext, scope: Scope) -> AsyncIterator[Call]:
        """Around one call: what it raises becomes its status. Cancellation passes, or grpc.aio would leak the call."""
        began, call, code = time.perf_counter(), _call(context), grpc.StatusCode.CANCELLED
        failed: Failure | None = None
        try:
            with self._gate.admit(context, scope) as call.client, self._lifecycle.call():
                if self._lifecycle.state is State.LOADING and scope is not Scope.HEALTH:
                    raise Unavailable("the server is loading its models: try again in a moment")
                yield call
            code = grpc.StatusCode.OK
        except Exception as error:
            failed = failure(error, call.request_id)
            code = failed.code
        finally:
            self._ended(name, scope, call, code, time.perf_counter() - began)
        if failed is not None:
            await context.abort(failed.code, failed.message, (*_echo(call), *failed.trailing_metadata()))
        context.set_trailing_metadata(_echo(call))

    def _ended(self, name: str, scope: Scope, call: Call, code: grpc.StatusCode, seconds: float) -> None:
        if self._observe is not None:
            self._observe(name, code.name, seconds)
        # Health is asked for every few seconds, by everybody.
        level = logging.DEBUG if scope is Scope.HEALTH else logging.INFO
        if log.isEnabledFor(level):
            client = "nobody known" if call.client is None else call.client.name
            fields = {"method": name, "code": code.name, "ms": round(seconds * 1000, 2), "client": client}
            told = "%s %s in %.2f ms for %s, request %s"
            log.log(
                level,
                told,
                *(name, code.name, seconds * 1000, client, call.request_id),
                extra={"fields": fields | {"request_id": call.request_id}},
            )


def _own_id(message: Message) -> str:
    """The id that a request carries: `request_id` in `palm_serve.v1`, `id` in the Open Inference Protocol."""
    return str(getattr(message, "request_id", "") or getattr(message, "id", ""))


def _sender(context: grpc.aio.ServicerContext) -> Send:
    async def send(message: Message) -> None:
        try:
            await context.write(message.SerializeToString())
        except grpc.aio.InternalError:
            # The client has left, and the news that cancels this call is still on its way.
            raise asyncio.CancelledError from None

    return send


def _call(context: grpc.aio.ServicerContext) -> Call:
    given = dict.fromkeys((REQUEST_ID_KEY, SESSION_ID_KEY), "")
    for key, value in context.invocation_metadata() or ():
        if key in given and isinstance(value, str) and not given[key] and len(value) <= _REQUEST_ID_BYTES:
            given[key] = value
    remaining = context.time_remaining()
    return Call(
        given[REQUEST_ID_KEY] or uuid.uuid4().hex,
        None if remaining is None else time.monotonic() + remaining,
        given[SESSION_ID_KEY],
    )


def _echo(call: Call) -> tuple[tuple[str, str], ...]:
    # A header holds printable ASCII only; what else an id holds is percent-encoded.
    plain = all(character in _HEADER_SAFE for character in call.request_id)
    return ((REQUEST_ID_KEY, call.request_id if plain else urllib.parse.quote(call.request_id)),)

"""What happens around every call: readiness, admission, parsing, request id, deadline, status.

Services see messages and raise errors. Handlers take bytes and parse inside: grpc's own deserializer would answer a
message that does not parse with UNKNOWN and a class name.
"""

import asyncio
import string
import time
import urllib.parse
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from palm_serve.errors import InvalidRequest, Overloaded, Unavailable
from palm_serve.rpc.lifecycle import Lifecycle, State
from palm_serve.rpc.status import Failure, failure

REQUEST_ID_KEY = "x-request-id"
SESSION_ID_KEY = "x-session-id"
"""Of a dialogue: all its turns are answered by the same version while shares stay as they are."""
_REQUEST_ID_BYTES = 256
_HEADER_SAFE = string.printable[:95]
_BUSY_RETRY_S = 0.1

M = TypeVar("M", bound=Message)


@dataclass(slots=True)
class Call:
    """One call in flight. `deadline` is on the `time.monotonic()` clock, in seconds."""

    request_id: str
    deadline: float | None
    session_id: str = ""

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


class Admission:
    """Bounds the calls in flight of each client address; grpc's maximum_concurrent_rpcs counts all clients together."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._running: Counter[str] = Counter()

    @contextmanager
    def admit(self, peer: str) -> Iterator[None]:
        """Around one call of `peer` (`ipv4:HOST:PORT`). Raises Overloaded."""
        client = peer.rpartition(":")[0] if peer.startswith("ip") else peer
        if self._running[client] >= self._limit:
            raise Overloaded(
                f"{self._limit:,} calls of this client are in flight, which is the limit: wait for answers",
                _BUSY_RETRY_S,
            )
        self._running[client] += 1
        try:
            yield
        finally:
            self._running[client] -= 1
            if not self._running[client]:
                del self._running[client]


class Calls:
    """Makes grpc handlers of service methods. `observe` is told of every call: method, status code, seconds."""

    def __init__(self, lifecycle: Lifecycle, calls_per_client: int, observe: Observe | None = None) -> None:
        self._lifecycle = lifecycle
        self._admission = Admission(calls_per_client)
        self._observe = observe

    def unary(
        self, name: str, kind: type[M], method: Callable[[M, Call], Awaitable[Message]], *, always: bool = False
    ) -> grpc.RpcMethodHandler:
        """One request, one response. `always`: also while loading, and without admission (health)."""

        async def handle(data: bytes, context: grpc.aio.ServicerContext) -> bytes:
            async with self._around(name, context, always) as call:
                request = decode(kind, data)
                call.request_id = request_id(_own_id(request) or call.request_id)
                response = await method(request, call)
            return bytes(response.SerializeToString())

        return grpc.unary_unary_rpc_method_handler(handle)

    def stream(self, name: str, method: StreamMethod) -> grpc.RpcMethodHandler:
        """Many requests, many responses. The method gets the raw messages and a function that sends a response."""

        async def handle(messages: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
            async with self._around(name, context, always=False) as call:
                await method(messages, call, _sender(context))

        return grpc.stream_stream_rpc_method_handler(handle)

    def watch(self, name: str, kind: type[M], method: Callable[[M, Send], Awaitable[None]]) -> grpc.RpcMethodHandler:
        """One request, open-ended responses; answered while loading, without admission (health)."""

        async def handle(data: bytes, context: grpc.aio.ServicerContext) -> None:
            async with self._around(name, context, always=True):
                await method(decode(kind, data), _sender(context))

        return grpc.unary_stream_rpc_method_handler(handle)

    @asynccontextmanager
    async def _around(self, name: str, context: grpc.aio.ServicerContext, always: bool) -> AsyncIterator[Call]:
        """Around one call: what it raises becomes its status. Cancellation passes, or grpc.aio would leak the call."""
        began, call, code = time.perf_counter(), _call(context), grpc.StatusCode.CANCELLED
        failed: Failure | None = None
        try:
            if self._lifecycle.state is State.LOADING and not always:
                raise Unavailable("the server is loading its models: try again in a moment")
            with self._lifecycle.call(), nullcontext() if always else self._admission.admit(context.peer()):
                yield call
            code = grpc.StatusCode.OK
        except Exception as error:
            failed = failure(error, call.request_id)
            code = failed.code
        finally:
            if self._observe is not None:
                self._observe(name, code.name, time.perf_counter() - began)
        if failed is not None:
            await context.abort(failed.code, failed.message, (*_echo(call), *failed.trailing_metadata()))
        context.set_trailing_metadata(_echo(call))


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

"""Handling of every call: readiness, admission, parsing, request id, deadline and status.

Services receive messages and raise errors. The handlers receive bytes and parse them, because the deserializer of grpc would
answer an invalid message with UNKNOWN and a class name.
"""

import asyncio
import copy
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, NoReturn, TypeVar

import grpc
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message

from palm_serve.errors import InvalidRequest, Overloaded, PalmServeError
from palm_serve.rpc.access.admission import AdmissionControl
from palm_serve.rpc.access.tokens import Scope
from palm_serve.rpc.call import Call, new_call, request_id, request_id_metadata
from palm_serve.rpc.call_context import NO_MESSAGE, CallAborted, CallContext
from palm_serve.rpc.lifecycle import Lifecycle, State
from palm_serve.rpc.load_report import LoadReporter
from palm_serve.rpc.messages.answer_size import check_answer, max_answer_bytes
from palm_serve.rpc.messages.status import Failure, failure
from palm_serve.rpc.messages.wire import decode, max_fields
from palm_serve.types import CallRecord

log = logging.getLogger(__name__)

_CANCELLATION_S = 0.05
"""Time in which gRPC tells that a call without a message was cancelled."""

_GRPC = "grpc"
"""Name of the transport whose answers have trailers."""
_CONVERSION_BYTES = 4096
"""Length of a body over HTTP from which it is read, and its answer written, in a thread.

To read and to write JSON takes longer than to change threads from some ten texts on, and the loop would answer nobody else
meanwhile.
"""
_SERVER_FAILURES = frozenset(
    (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
)
"""Status codes of calls that another replica might have answered."""

M = TypeVar("M", bound=Message)
R = TypeVar("R")


Observe = Callable[[CallRecord], None]
Send = Callable[[Message], Awaitable[None]]
StreamMethod = Callable[[AsyncIterator[bytes], Call, Send], Awaitable[None]]
EarlyRefusal = Callable[[Call], PalmServeError | None]
Exchange = Callable[[Any, CallContext], Awaitable[bytes]]
"""Handler of a call with one request and one response. gRPC calls it with a stream, which is not used, and the context."""


class HandlerFactory:
    """Creates grpc handlers from the methods of services.

    Args:
        lifecycle: state of the server and its calls in flight.
        admission: identifies clients and enforces their limits.
        observe: called with the record of every finished call.
        log_text: log requests at level info.
        load: reports the load of the server with answers over gRPC. None: there is no report.
    """

    def __init__(
        self,
        lifecycle: Lifecycle,
        admission: AdmissionControl,
        observe: Observe | None = None,
        log_text: bool = False,
        load: LoadReporter | None = None,
    ) -> None:
        self._lifecycle = lifecycle
        self._admission = admission
        self._observe = observe
        self._log_text = log_text
        self._load = load
        self._max_fields = max_fields(admission.limits)
        self._max_answer = max_answer_bytes(admission.limits)
        self.messages = admission.messages
        """Receives the first messages of calls."""
        self.messages.refuse = _refuse
        lifecycle.on_end(self.messages.refuse_all)
        self._service = ""
        self._door = ""

    def for_service(self, service: str, door: str = _GRPC) -> "HandlerFactory":
        """Return a factory for the methods of a service, given by its full name, and the name of its transport."""
        factory = copy.copy(self)
        factory._service = service
        factory._door = door
        return factory

    def unary(
        self,
        name: str,
        message_class: type[M],
        method: Callable[[M, Call], Awaitable[Message]],
        scope: Scope,
        early_refusal: EarlyRefusal | None = None,
    ) -> grpc.RpcMethodHandler:
        """Create a handler with one request and one response.

        Args:
            name: name of the method.
            message_class: class of the request.
            method: method of the service.
            scope: scope that the method requires. With Scope.HEALTH it is also answered while the server loads.
            early_refusal: see `exchange`.
        """

        def read(data: bytes) -> M:
            return decode(message_class, data, self._max_fields)

        return grpc.stream_unary_rpc_method_handler(
            self.exchange(name, read, method, _serialized, scope, early_refusal)
        )

    def exchange(
        self,
        name: str,
        read: Callable[[bytes], M],
        method: Callable[[M, Call], Awaitable[R]],
        write: Callable[[R], bytes],
        scope: Scope,
        early_refusal: EarlyRefusal | None = None,
    ) -> Exchange:
        """Create the handler of a call with one request and one response, for any transport.

        Args:
            name: name of the method.
            read: parses the request. Raises InvalidRequest. A long body over HTTP is parsed in a thread.
            method: method of the service.
            write: serializes the response, in a thread if the request was parsed in one.
            scope: scope that the method requires. With Scope.HEALTH it is also answered while the server loads.
            early_refusal: called before the message is read. Returns the error if the call would be refused whatever it
                asks. To read a message takes longer than to refuse it.
        """

        async def handle(messages: Any, context: CallContext) -> bytes:
            async with self._handle_call(name, context, scope) as call:
                error = None if early_refusal is None else early_refusal(call)
                if error is not None:
                    raise error
                data = await self.messages.receive(context, call, call.admitted_client)
                if data is NO_MESSAGE:
                    await _no_message()
                call.request_bytes = len(data)
                in_thread = self._door != _GRPC and len(data) >= _CONVERSION_BYTES
                request = await asyncio.to_thread(read, data) if in_thread else read(data)
                call.request_id = request_id(_message_id(request) or call.request_id)
                if self._log_text:
                    log.info("request %s: %s", call.request_id, MessageToJson(request, indent=None, ensure_ascii=False))
                with self._lifecycle.work():
                    message = await method(request, call)
                response = await asyncio.to_thread(write, message) if in_thread else write(message)
                if scope is Scope.PARSE:
                    check_answer(len(response), self._max_answer)
                call.response_bytes = len(response)
                self._admission.unread_answers.hold(call.admitted_client.name, context, len(response))
            return response

        return handle

    def stream(self, name: str, method: StreamMethod, scope: Scope) -> grpc.RpcMethodHandler:
        """Create a handler with streams of requests and responses.

        Args:
            name: name of the method.
            method: method of the service, called with the serialized messages, the call and a function that sends a response.
            scope: scope that the method requires.
        """

        async def handle(messages: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
            async with self._handle_call(name, context, scope, stream=True) as call:
                received = self._admission.paced(self._received(context, call), context, scope)
                with self._lifecycle.work():
                    await method(received, call, _sender(context))

        return grpc.stream_stream_rpc_method_handler(handle)

    def watch(
        self, name: str, message_class: type[M], method: Callable[[M, Send], Awaitable[None]], scope: Scope
    ) -> grpc.RpcMethodHandler:
        """Create a handler with one request and an open-ended stream of responses. Each address may have a few of them.

        Args:
            name: name of the method.
            message_class: class of the request.
            method: method of the service, called with the request and a function that sends a response.
            scope: scope that the method requires.
        """

        async def handle(messages: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
            async with self._handle_call(name, context, scope, stream=True) as call:
                with self._admission.watch(call.admitted_client):
                    data = await self.messages.receive(context, call, call.admitted_client)
                    if data is grpc.aio.EOF:
                        await _no_message()
                    await method(decode(message_class, data, self._max_fields), _sender(context))

        return grpc.stream_stream_rpc_method_handler(handle)

    def library_stream(
        self,
        name: str,
        method: Callable[[AsyncIterator[M], Any], AsyncIterator[Message]],
        message_class: type[M],
        scope: Scope,
    ) -> grpc.RpcMethodHandler:
        """Create a handler for a stream method of a library's servicer. The stream ends when the server drains.

        Args:
            name: name of the method.
            method: method of the servicer.
            message_class: class of the requests.
            scope: scope that the method requires.
        """

        async def handle(messages: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
            async with self._handle_call(name, context, scope, stream=True) as call, self._lifecycle.stream():
                received = self._admission.paced(self._received(context, call), context, scope)
                requests = (decode(message_class, data, self._max_fields) async for data in received)
                async for response in method(requests, context):
                    await _sender(context)(response)

        return grpc.stream_stream_rpc_method_handler(handle)

    async def _received(self, context: grpc.aio.ServicerContext, call: Call) -> AsyncIterator[bytes]:
        """Yield the messages of a stream."""
        data = await self.messages.receive(context, call, call.admitted_client)
        while data is not grpc.aio.EOF:
            yield data
            data = await context.read()

    @asynccontextmanager
    async def _handle_call(
        self, name: str, context: CallContext, scope: Scope, stream: bool = False
    ) -> AsyncIterator[Call]:
        """Admit one call, convert its errors into a status, and record its end.

        Cancellation is raised again, because grpc.aio leaks a cancelled call otherwise.
        """
        started_ns = time.perf_counter_ns()
        call = new_call(context)
        code = grpc.StatusCode.CANCELLED
        reason = ""
        failed: Failure | None = None
        sent: Exception | None = None
        try:
            call.client = self._admission.identify(context, scope)
            with self._admission.admit(call.client, scope, stream), self._lifecycle.call():
                release = self._lifecycle.release
                if release is not None:
                    await release.wait()
                if scope is not Scope.HEALTH:
                    self._lifecycle.check()
                yield call
            code = grpc.StatusCode.OK
        except asyncio.CancelledError:
            # The client has disconnected, or grpc ended the call at its deadline.
            if call.deadline is not None and time.monotonic() >= call.deadline:
                code = grpc.StatusCode.DEADLINE_EXCEEDED
            raise
        except Exception as error:
            failed = failure(error, call.request_id)
            code = failed.code
            call.client = call.client or self._admission.client_from_address(context)
            reason = error.reason if isinstance(error, Overloaded) else ""
            if isinstance(error.__cause__, CallAborted):
                sent = error.__cause__
        finally:
            if self._load is not None and scope is Scope.PARSE:
                self._load.count(failed=code in _SERVER_FAILURES)
            if self._observe is not None:
                self._observe(self._record(name, scope, call, code, reason, stream, started_ns))
        if sent is not None:
            raise sent
        if failed is not None:
            with _failed_write_as_cancellation():
                await _abort(context, call, failed)
        metadata: tuple[tuple[str, str | bytes], ...] = request_id_metadata(call)
        if self._load is not None and scope is Scope.PARSE and self._door == _GRPC:
            metadata += self._load.trailer()
        context.set_trailing_metadata(metadata)

    def _record(
        self, name: str, scope: Scope, call: Call, code: grpc.StatusCode, reason: str, stream: bool, started_ns: int
    ) -> CallRecord:
        now_ns = time.perf_counter_ns()
        return CallRecord(
            method=name,
            service=self._service,
            door=self._door,
            code=code.name,
            number=int(code.value[0]),
            seconds=(now_ns - started_ns) / 1e9,
            ended_ns=now_ns,
            request_id=call.request_id,
            client="unknown" if call.client is None else call.client.name,
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


def _serialized(message: Message) -> bytes:
    data: bytes = message.SerializeToString()
    return data


def _message_id(message: Message) -> str:
    """Return the id of a request message: `request_id` in `palm_serve.v1`, `id` in the Open Inference Protocol."""
    return str(getattr(message, "request_id", "") or getattr(message, "id", ""))


async def _abort(context: CallContext, call: Call, failed: Failure) -> None:
    """End a call with the status of a failure. Raises CallAborted."""
    await context.abort(failed.code, failed.message, (*request_id_metadata(call), *failed.trailing_metadata()))


async def _refuse(context: CallContext, call: Call, error: PalmServeError) -> None:
    """End a call whose handler still reads. The handler gets the CallAborted from its read, or its cancellation."""
    with suppress(CallAborted, grpc.aio.InternalError):
        await _abort(context, call, failure(error, call.request_id))


async def _no_message() -> NoReturn:
    """Refuse a call that has ended without a message. Raises InvalidRequest."""
    # gRPC also ends the read of a call that was cancelled, or whose message is too large. It tells so a moment later.
    await asyncio.sleep(_CANCELLATION_S)
    raise InvalidRequest("the call must have a message, got its end. Send one message.")


def _sender(context: grpc.aio.ServicerContext) -> Send:
    async def send(message: Message) -> None:
        with _failed_write_as_cancellation():
            await context.write(message.SerializeToString())

    return send


@contextmanager
def _failed_write_as_cancellation() -> Iterator[None]:
    """Treat a failed write as cancellation: gRPC raises InternalError when the client has disconnected."""
    try:
        yield
    except grpc.aio.InternalError:
        raise asyncio.CancelledError from None

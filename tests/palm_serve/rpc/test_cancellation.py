"""A cancelled handler must raise CancelledError. If it returns instead, grpc.aio leaks 0.3 KiB a call.

https://github.com/grpc/grpc/issues/43360
"""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from grpc_health.v1 import health_pb2

from palm_serve.config import ServeOptions
from palm_serve.rpc.access.admission import AdmissionControl
from palm_serve.rpc.access.tokens import Scope
from palm_serve.rpc.call import Call
from palm_serve.rpc.call_handling import HandlerFactory, Send
from palm_serve.rpc.lifecycle import Lifecycle, State
from palm_serve.rpc.streams import answer_each
from palm_serve.types import CallRecord


async def forever(*arguments: object) -> health_pb2.HealthCheckResponse:
    await asyncio.sleep(3600)
    return health_pb2.HealthCheckResponse()


@pytest.mark.parametrize("kind", ["unary", "stream", "watch"])
def test_disconnect_cancels_the_method(kind: str) -> None:
    ended: list[str] = []
    records: list[CallRecord] = []

    async def scenario() -> None:
        lifecycle = Lifecycle()
        lifecycle.state = State.SERVING
        calls, began, over = (
            HandlerFactory(lifecycle, AdmissionControl(ServeOptions()), records.append),
            asyncio.Event(),
            asyncio.Event(),
        )

        async def stream(messages: AsyncIterator[bytes], call: Call, send: Send) -> None:
            await answer_each(messages, forever, send, 4, lifecycle)

        if kind == "unary":
            made = calls.unary("M", health_pb2.HealthCheckRequest, forever, Scope.PARSE)
            real, handler = made.stream_unary, grpc.stream_unary_rpc_method_handler
        elif kind == "stream":
            made = calls.stream("M", stream, Scope.PARSE)
            real, handler = made.stream_stream, grpc.stream_stream_rpc_method_handler
        else:
            made = calls.watch("M", health_pb2.HealthCheckRequest, forever, Scope.PARSE)  # type: ignore[arg-type]
            real, handler = made.stream_stream, grpc.stream_stream_rpc_method_handler

        async def watched(request: object, context: grpc.aio.ServicerContext) -> object:
            began.set()
            try:
                return await real(request, context)
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise
            finally:
                over.set()

        server = grpc.aio.server()
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("S", {"M": handler(watched)})])
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            if kind == "unary":
                call = channel.unary_unary("/S/M")(b"")
            elif kind == "stream":
                call = channel.stream_stream("/S/M")()
                await call.write(b"")
            else:
                call = channel.unary_stream("/S/M")(b"")
            await asyncio.wait_for(began.wait(), 10)
            await asyncio.sleep(0.05)
            call.cancel()
            await asyncio.wait_for(over.wait(), 10)
        await server.stop(None)

    asyncio.run(scenario())
    assert ended == ["cancelled"]
    assert [record.code for record in records] == ["CANCELLED"]

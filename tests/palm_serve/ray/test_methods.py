"""What Ray's ingress takes calls for, and the deadline that it does not pass on."""

import asyncio
from concurrent import futures
from types import SimpleNamespace

import grpc
import pytest

from palm_serve.client import Client
from palm_serve.client.protocol import TIMEOUT_KEY
from palm_serve.config import ServeOptions
from palm_serve.ray import contexts
from palm_serve.ray.methods import served_methods
from palm_serve.registry import Registry
from palm_serve.rpc.grpc_server import make_services, service_methods
from palm_serve.rpc.lifecycle import Lifecycle
from palm_serve.v1 import palm_pb2 as pb
from palm_serve.v1 import palm_pb2_grpc


def test_ingress_takes_all_calls_of_the_server() -> None:
    async def own_methods() -> dict[str, dict[str, bool]]:
        options = ServeOptions()
        registry = Registry()
        services = service_methods(make_services(registry, options, Lifecycle()), options)
        await registry.close()
        return {
            service: {name: handler.response_streaming for name, handler in methods.items()}
            for service, methods in services.items()
        }

    own = asyncio.run(own_methods())
    assert served_methods() == own
    names = {name: service for service, methods in own.items() for name in methods if "reflection" not in service}
    assert len(names) == sum(len(methods) for service, methods in own.items() if "reflection" not in service)


class Recorder(palm_pb2_grpc.DialogueUnderstandingServicer):
    """Keeps the metadata of calls. Refuses the first one."""

    def __init__(self) -> None:
        self.timeouts_ms: list[int] = []

    def Parse(self, request: pb.ParseRequest, context: grpc.ServicerContext) -> pb.ParseResponse:  # noqa: N802
        metadata = dict(context.invocation_metadata())
        self.timeouts_ms.append(int(metadata[TIMEOUT_KEY]))
        if len(self.timeouts_ms) == 1:
            context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")
        return pb.ParseResponse()


def test_client_tells_the_time_that_is_left_at_each_attempt() -> None:
    recorder = Recorder()
    server = grpc.server(futures.ThreadPoolExecutor(1))
    palm_pb2_grpc.add_DialogueUnderstandingServicer_to_server(recorder, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with Client(f"127.0.0.1:{port}", timeout_s=100) as client:
            client.parse("hello")
    finally:
        server.stop(None).wait()
    first, second = recorder.timeouts_ms
    assert 0 < second < first <= 100_000


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [("60000", 50.0, 60.0), ("0", 0.0, 0.0), ("soon", None, None), ("-1", None, None), ("9" * 11, None, None)],
)
def test_deadline_of_a_replica(value: str, low: float | None, high: float | None) -> None:
    assert contexts.TIMEOUT_KEY == TIMEOUT_KEY
    context = contexts.UnaryContext(SimpleNamespace(invocation_metadata=lambda: [(TIMEOUT_KEY, value)]), b"", 10)
    remaining_s = context.time_remaining()
    if low is None:
        assert remaining_s is None
    else:
        assert low <= remaining_s <= high

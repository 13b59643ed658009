"""Stop of a real server: not ready, then no new calls, then running calls finish in limited time."""

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from palm_serve.v1 import palm_pb2 as pb
from palm_serve.v1 import palm_pb2_grpc as stubs

NOT_SERVING = 2


@pytest.mark.parametrize(("first", "second"), [(signal.SIGTERM, signal.SIGTERM), (signal.SIGTERM, signal.SIGINT)])
def test_second_signal_ends_the_process_at_once(
    start_server: Callable[..., Any], tiny_bundle: Path, first: signal.Signals, second: signal.Signals
) -> None:
    process = start_server(tiny_bundle, "--drain-grace", "300")
    with grpc.insecure_channel(process.target()) as channel:
        process.process.send_signal(first)
        process.wait_for("draining")
        assert health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest()).status == NOT_SERVING
        answer = stubs.DialogueUnderstandingStub(channel).Parse(pb.ParseRequest(text="hello"))
        assert answer.intent.name == "greeting", "load balancers have not noticed yet"
        process.process.send_signal(second)
        assert process.finish(10) == -second


def test_client_that_does_not_read_cannot_delay_stop(start_server: Callable[..., Any], tiny_bundle: Path) -> None:
    process = start_server(tiny_bundle, "--drain-grace", "0", "--stop-timeout", "1")

    def requests() -> Iterator[pb.ParseRequest]:
        for _ in range(100_000):
            yield pb.ParseRequest(text="please show me flights from boston to new york on monday")

    with grpc.insecure_channel(process.target()) as channel:
        answers = stubs.DialogueUnderstandingStub(channel).ParseStream(requests())
        next(answers)
        time.sleep(0.5)
        began = time.monotonic()
        process.process.send_signal(signal.SIGTERM)
        assert process.finish(20) == 0
        assert time.monotonic() - began < 10


def test_calls_until_the_stop_get_unavailable(start_server: Callable[..., Any], tiny_bundle: Path) -> None:
    """A stopping gRPC server answers CANCELLED to received calls, and clients do not retry after CANCELLED."""
    process = start_server(tiny_bundle, "--drain-grace", "0.1")
    target, codes = process.target(), []

    def ask() -> None:
        with grpc.insecure_channel(target, (("grpc.use_local_subchannel_pool", 1),)) as channel:
            parse = stubs.DialogueUnderstandingStub(channel).Parse
            while True:
                try:
                    parse(pb.ParseRequest(text="hello"), timeout=20)
                except grpc.RpcError as error:
                    codes.append(error.code().name)
                    return

    callers = [threading.Thread(target=ask) for _ in range(16)]
    for caller in callers:
        caller.start()
    time.sleep(0.5)
    process.process.send_signal(signal.SIGTERM)
    for caller in callers:
        caller.join(30)
    assert process.finish() == 0
    assert codes == ["UNAVAILABLE"] * 16


def test_callers_without_a_pause_never_get_cancelled(start_server: Callable[..., Any], tiny_bundle: Path) -> None:
    """Callers that ask again at once, also after a refusal, are answered or get UNAVAILABLE until the process has ended."""
    process = start_server(tiny_bundle, "--drain-grace", "0.1")
    target, codes = process.target(), Counter[str]()

    def ask(method: str) -> None:
        with grpc.insecure_channel(target, (("grpc.use_local_subchannel_pool", 1),)) as channel:
            call = channel.unary_unary(method)
            while process.process.poll() is None:
                try:
                    call(pb.ParseRequest(text="hello").SerializeToString() if "Parse" in method else b"", timeout=60)
                    codes["OK"] += 1
                except grpc.RpcError as error:
                    codes[error.code().name] += 1

    methods = ["/palm_serve.v1.DialogueUnderstanding/Parse"] * 4 + ["/grpc.health.v1.Health/Check"]
    callers = [threading.Thread(target=ask, args=(method,)) for method in methods]
    for caller in callers:
        caller.start()
    time.sleep(0.5)
    process.process.send_signal(signal.SIGTERM)
    for caller in callers:
        caller.join(60)
    assert process.finish() == 0
    assert {*codes} == {"OK", "UNAVAILABLE"}, codes

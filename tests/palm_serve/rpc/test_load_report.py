"""Load reports in the trailers of answers: what they say, and to whom they are sent."""

import asyncio
import struct
from typing import Any, NoReturn

import grpc
import pytest

from palm_serve.config import ServeOptions
from palm_serve.rpc.access.admission import AdmissionControl
from palm_serve.rpc.access.tokens import Scope
from palm_serve.rpc.call import Call
from palm_serve.rpc.call_handling import HandlerFactory
from palm_serve.rpc.lifecycle import Lifecycle, State
from palm_serve.rpc.load_report import LOAD_REPORT_KEY, LoadReporter
from palm_serve.v1 import palm_pb2 as pb

CALLS, ERRORS, UTILIZATION = 6, 7, 9
"""Fields of `xds.data.orca.v3.OrcaLoadReport`: rps_fractional, eps, application_utilization."""


def read_report(message: bytes) -> dict[int, float]:
    """Return the doubles of a message by the number of their field."""
    return {tag >> 3: value for tag, value in struct.iter_unpack("<Bd", message)}


class Clocks:
    """Time, processor time and the time of the engine, which a test sets."""

    def __init__(self, cores: int = 2) -> None:
        self.now = self.cpu = self.busy = 0.0
        self.reporter = LoadReporter(lambda: self.busy, cores, lambda: self.now, lambda: self.cpu)

    def pass_second(self, calls: int, *, busy: float, cpu: float, failed: int = 0) -> dict[int, float]:
        for number in range(calls):
            self.reporter.count(failed=number < failed)
        self.now += 1
        self.busy += busy
        self.cpu += cpu
        trailer = self.reporter.trailer()
        return read_report(trailer[0][1]) if trailer else {}


def test_report_tells_calls_errors_and_the_share_of_time() -> None:
    clocks = Clocks()
    assert clocks.reporter.trailer() == ()
    assert clocks.pass_second(20, busy=0.25, cpu=0.2, failed=5) == {CALLS: 20, ERRORS: 5, UTILIZATION: 0.25}
    assert clocks.pass_second(10, busy=0.75, cpu=0.2) == {CALLS: 15, ERRORS: 2.5, UTILIZATION: 0.5}


def test_processor_counts_where_it_is_busier_than_the_engine() -> None:
    assert Clocks(cores=4).pass_second(10, busy=0.1, cpu=2.0)[UTILIZATION] == 0.5
    assert Clocks(cores=1).pass_second(10, busy=0.1, cpu=3.0)[UTILIZATION] == 1.0


def test_report_is_about_the_last_seconds() -> None:
    clocks = Clocks()
    for _ in range(30):
        clocks.pass_second(100, busy=1.0, cpu=0)
    for _ in range(11):
        report = clocks.pass_second(10, busy=0.1, cpu=0)
    assert report[CALLS] == pytest.approx(10, abs=1e-6)
    assert report[UTILIZATION] == pytest.approx(0.1, abs=1e-6)


def test_report_is_renewed_twice_a_second_at_most() -> None:
    clocks = Clocks()
    clocks.pass_second(10, busy=0.1, cpu=0)
    first = clocks.reporter.trailer()
    clocks.now += 0.4
    clocks.busy += 0.4
    assert clocks.reporter.trailer() is first
    clocks.now += 0.2
    assert clocks.reporter.trailer() is not first


class Context:
    """A call of a transport without a network, as `CallContext` describes it."""

    def __init__(self) -> None:
        self.trailers: dict[str, str | bytes] = {}

    def peer(self) -> str:
        return "ipv4:127.0.0.1:9"

    def peer_identities(self) -> None:
        return None

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()

    def time_remaining(self) -> None:
        return None

    async def read(self) -> bytes:
        return pb.ParseRequest(text="play").SerializeToString()

    async def abort(self, code: grpc.StatusCode, details: str, trailing_metadata: Any) -> NoReturn:
        raise AssertionError(f"{code}: {details}")

    def set_trailing_metadata(self, trailing_metadata: tuple[tuple[str, str | bytes], ...]) -> None:
        self.trailers = dict(trailing_metadata)


@pytest.mark.parametrize(
    ("door", "scope", "sent"), [("grpc", Scope.PARSE, 1), ("http", Scope.PARSE, 0), ("grpc", Scope.READ, 0)]
)
def test_answers_to_texts_over_grpc_carry_it(door: str, scope: Scope, sent: int) -> None:
    """gRPC's own client takes the report out of the trailers, so that a test of the network cannot see it."""
    clocks = Clocks()

    async def answer(request: pb.ParseRequest, call: Call) -> pb.ParseResponse:
        clocks.now += 1
        clocks.busy += 0.5
        return pb.ParseResponse()

    async def run() -> Context:
        options = ServeOptions(host="127.0.0.1")
        lifecycle = Lifecycle()
        lifecycle.state = State.SERVING
        factory = HandlerFactory(lifecycle, AdmissionControl(options), load=clocks.reporter).for_service("s", door)
        context = Context()
        read = pb.ParseRequest.FromString
        await factory.exchange("Parse", read, answer, lambda message: message.SerializeToString(), scope)(None, context)
        return context

    context = asyncio.run(run())
    assert "x-request-id" in context.trailers
    assert (LOAD_REPORT_KEY in context.trailers) == bool(sent)
    if sent:
        assert read_report(bytes(context.trailers[LOAD_REPORT_KEY])) == {CALLS: 1, ERRORS: 0, UTILIZATION: 0.5}  # type: ignore[arg-type]

"""Traces of a real server, as a collector receives them."""

import json
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as collected
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as collecting

from palm_serve import extras
from palm_serve.cli.settings import resolve
from palm_serve.config import ServeOptions
from palm_serve.errors import ConfigError
from palm_serve.v1 import palm_pb2 as pb
from palm_serve.v1 import palm_pb2_grpc as stubs

SECRET = "xylophone"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, NOT_SAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"
INTERNAL, SERVER = 1, 2  # span kinds
ERROR = 2  # a span's status


class Collector(collecting.TraceServiceServicer):
    """An OTLP collector that keeps the received spans."""

    def __init__(self) -> None:
        self.received: list[collected.ExportTraceServiceRequest] = []
        self._server = grpc.server(ThreadPoolExecutor(2))
        collecting.add_TraceServiceServicer_to_server(self, self._server)
        self.endpoint = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802  the protocol's name
        self.received.append(request)
        return collected.ExportTraceServiceResponse()

    def spans(self) -> list[Any]:
        return [
            span
            for request in self.received
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def of(self, request_id: str, seconds: float = 20) -> tuple[Any, list[Any]]:
        """Return the span of a call, and its children by start time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            spans = self.spans()
            for span in spans:
                if attributes(span).get("palm.request_id") == request_id:
                    children = [child for child in spans if child.parent_span_id == span.span_id]
                    return span, sorted(children, key=lambda child: child.start_time_unix_nano)
            time.sleep(0.02)
        raise AssertionError(f"no span of {request_id} came: {self.received}")

    def stop(self) -> None:
        self._server.stop(None).wait()


def attributes(span: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    one = Collector()
    yield one
    one.stop()


@pytest.fixture(scope="module")
def traced(collector: Collector, tiny_bundle: Path, start_shared_server: Callable[..., Any]) -> Any:
    """Run a server that also logs every call."""
    environment = {"OTEL_BSP_SCHEDULE_DELAY": "50", "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test"}
    return start_shared_server(
        *(tiny_bundle, "--otel-endpoint", collector.endpoint, "--access-log", "--log-format", "json"), env=environment
    )


@pytest.fixture
def dialogue(traced: Any) -> Iterator[stubs.DialogueUnderstandingStub]:
    with grpc.insecure_channel(traced.target()) as channel:
        yield stubs.DialogueUnderstandingStub(channel)


def logged(process: Any, request_id: str) -> dict[str, Any]:
    """Return the log line of a call."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        for line in [*process.errors]:
            if (told := json.loads(line)).get("request_id") == request_id:
                return dict(told)
        time.sleep(0.02)
    raise AssertionError(f"no line of {request_id}: {process.errors}")


def test_trace_of_the_caller_is_continued(
    traced: Any, dialogue: stubs.DialogueUnderstandingStub, collector: Collector
) -> None:
    before = time.time_ns()
    answer = dialogue.Parse(
        pb.ParseRequest(text=f"play {SECRET}"),
        metadata=[("traceparent", SAMPLED), ("tracestate", "vendor=1"), ("x-request-id", "r1")],
    )
    span, (queue, run, decode) = collector.of("r1")
    assert (span.trace_id.hex(), span.parent_span_id.hex(), span.trace_state) == (TRACE, PARENT, "vendor=1")
    assert (span.name, span.kind, span.status.code) == ("Parse", SERVER, 0)
    told = attributes(span)
    assert told["rpc.system"] == "grpc"
    assert told["rpc.service"] == "palm_serve.v1.DialogueUnderstanding"
    assert told["rpc.grpc.status_code"] == 0
    assert (told["palm.model"], told["palm.version"], told["palm.texts"]) == ("tiny", answer.version, 1)
    assert [child.name for child in (queue, run, decode)] == ["queue", "run", "decode"]
    assert {child.kind for child in (queue, run, decode)} == {INTERNAL}
    assert {child.trace_id.hex() for child in (queue, run, decode)} == {TRACE}
    # As long as the answer tells, one after the other, all within the call.
    spent = [(child.end_time_unix_nano - child.start_time_unix_nano) // 1000 for child in (queue, run, decode)]
    assert spent == [answer.timings.queue_us, answer.timings.inference_us, answer.timings.decode_us]
    assert before <= span.start_time_unix_nano
    assert queue.end_time_unix_nano == run.start_time_unix_nano
    assert run.end_time_unix_nano <= decode.start_time_unix_nano
    assert span.start_time_unix_nano <= queue.start_time_unix_nano
    assert decode.end_time_unix_nano <= span.end_time_unix_nano <= time.time_ns()
    line = logged(traced, "r1")
    assert (line["trace_id"], line["method"], line["code"], line["model"]) == (TRACE, "Parse", "OK", "tiny")
    assert line["queue_ms"] == pytest.approx(answer.timings.queue_us / 1000, abs=0.01)


def test_texts_of_one_batch_share_their_spans(dialogue: stubs.DialogueUnderstandingStub, collector: Collector) -> None:
    requests = [pb.ParseRequest(text=f"play {SECRET}")] * 5
    dialogue.ParseBatch(pb.ParseBatchRequest(requests=requests), metadata=[("x-request-id", "r2")])
    span, children = collector.of("r2")
    assert len(span.trace_id) == 16, "a trace of its own"
    assert not span.parent_span_id
    assert attributes(span)["palm.texts"] == 5
    runs = [attributes(child) for child in children if child.name == "run"]
    assert sum(run["palm.batch.texts_of_call"] for run in runs) == 5
    assert all(run["palm.batch.rows"] >= run["palm.batch.texts_of_call"] for run in runs)
    assert len(children) == 3 * len(runs) < 15


def test_sampling_decides_on_spans(
    traced: Any, dialogue: stubs.DialogueUnderstandingStub, collector: Collector
) -> None:
    """Health checks and calls that the caller does not sample have no spans."""
    with grpc.insecure_channel(traced.target()) as channel:
        health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(), metadata=[("x-request-id", "health"), ("traceparent", SAMPLED)]
        )
    dialogue.Parse(pb.ParseRequest(text="hi"), metadata=[("x-request-id", "out"), ("traceparent", NOT_SAMPLED)])
    with pytest.raises(grpc.RpcError):
        dialogue.Parse(pb.ParseRequest(text="hi", model=SECRET), metadata=[("x-request-id", "r3")])
    span, children = collector.of("r3")
    assert attributes(span)["rpc.grpc.status_code"] == grpc.StatusCode.NOT_FOUND.value[0]
    assert span.status.code != ERROR, "the client's fault"
    assert children == []
    asked = {attributes(span).get("palm.request_id") for span in collector.spans()}
    assert not {"health", "out"} & asked
    assert logged(traced, "out")["trace_id"] == TRACE


def test_spans_name_the_service_and_hold_no_text(
    traced: Any, dialogue: stubs.DialogueUnderstandingStub, collector: Collector
) -> None:
    dialogue.Parse(pb.ParseRequest(text=SECRET), metadata=[("x-request-id", "r6")])
    collector.of("r6")
    (resource,) = {request.resource_spans[0].resource.SerializeToString() for request in collector.received}
    told = attributes(collector.received[0].resource_spans[0].resource)
    assert told["service.name"] == "palm-serve"
    assert told["deployment.environment.name"] == "test"
    assert told["service.version"]
    assert all(SECRET.encode() not in request.SerializeToString() for request in collector.received)
    assert resource


def test_missing_collector_does_not_delay_the_stop(tiny_bundle: Path, start_server: Callable[..., Any]) -> None:
    """Traces are requested by the environment, as platforms do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_BSP_SCHEDULE_DELAY": "50"}
    process = start_server(tiny_bundle, "--drain-grace", "0", env=environment)
    with grpc.insecure_channel(process.target()) as channel:
        for _ in range(20):
            assert stubs.DialogueUnderstandingStub(channel).Parse(pb.ParseRequest(text="hi")).model == "tiny"
            time.sleep(0.01)
    began = time.monotonic()
    process.process.send_signal(signal.SIGTERM)
    assert process.finish() == 0
    assert time.monotonic() - began < 10
    assert "traces" in "".join(process.errors), "it is told that they do not arrive"


@pytest.fixture
def not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    monkeypatch.delitem(sys.modules, "palm_serve.observability.tracing", raising=False)


def test_traces_without_opentelemetry(
    not_installed: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(
        ConfigError, match=r"--otel-endpoint: traces need OpenTelemetry.*pip install -c constraints\.txt '\.\[otel\]'"
    ):
        extras.start_tracing(ServeOptions(otel_endpoint="http://localhost:4317"))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4317")
    assert extras.start_tracing(ServeOptions()) is None
    assert "the environment requests traces, but traces need OpenTelemetry" in caplog.text


def test_traces_are_off_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    assert extras.start_tracing(ServeOptions()) is None


@pytest.mark.parametrize("endpoint", ["localhost:4317", "https://", "ftp://collector"])
def test_invalid_endpoint_is_refused(endpoint: str) -> None:
    with pytest.raises(ConfigError, match=rf"--otel-endpoint must begin with http:// or https://.* got '{endpoint}'"):
        resolve({"otel_endpoint": endpoint}, None, {})

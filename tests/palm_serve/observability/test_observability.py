"""Metrics and log lines, and the absence of request texts in them."""

import asyncio
import io
import json
import logging
import threading
from itertools import pairwise

import pytest
from prometheus_client import CollectorRegistry

from palm_serve.batching import FinishedBatch
from palm_serve.errors import EngineError
from palm_serve.observability import AccessLog, Metrics, configure_logging, traces_requested
from palm_serve.registry import Registry
from palm_serve.types import AnsweredText, CallRecord, TextRequest, Timings


@pytest.fixture
def metrics():
    return Metrics(CollectorRegistry())


DIGEST = "0123456789abcdef" * 4


def record(**changes):
    given = {
        "method": "Parse",
        "service": "palm_serve.v1.DialogueUnderstanding",
        "code": "OK",
        "number": 0,
        "seconds": 0.004,
        "ended_ns": 0,
        "request_id": "r1",
    }
    return CallRecord(**{**given, "client": "127.0.0.1", **changes})


def value(metrics, name, **labels):
    return metrics.registry.get_sample_value(name, labels)


def test_batch_updates_the_metrics(metrics):
    metrics.for_model("m", DIGEST).batch_finished(
        FinishedBatch(
            rows=3,
            tokens=30,
            padded_tokens=36,
            waits_s=[0.001, 0.002, 0.003],
            engine_s=0.008,
            service_s=0.01,
            wasted=1,
            late=2,
        )
    )
    assert value(metrics, "palm_batch_rows_sum", model="m", version=DIGEST[:12]) == 3
    assert value(metrics, "palm_tokens_total", model="m", version=DIGEST[:12]) == 30
    assert value(metrics, "palm_padding_tokens_total", model="m", version=DIGEST[:12]) == 6
    assert value(metrics, "palm_queue_seconds_count", model="m", version=DIGEST[:12]) == 3
    assert value(metrics, "palm_batch_tokens_sum", model="m", version=DIGEST[:12]) == 36
    assert value(metrics, "palm_inference_seconds_sum", model="m", version=DIGEST[:12]) == pytest.approx(0.008)
    assert value(metrics, "palm_decode_seconds_sum", model="m", version=DIGEST[:12]) == pytest.approx(0.002)
    assert value(metrics, "palm_discarded_rows_total", model="m", version=DIGEST[:12], reason="late") == 2
    assert value(metrics, "palm_discarded_rows_total", model="m", version=DIGEST[:12], reason="wasted") == 1


def test_discarded_rows_keep_their_old_metric_name(metrics):
    observer = metrics.for_model("m", DIGEST)
    labels = {"model": "m", "version": DIGEST[:12]}
    names = ("palm_discarded_rows_total", "palm_vain_rows_total")
    assert [value(metrics, name, **labels, reason="late") for name in names] == [0, 0]
    observer.batch_finished(
        FinishedBatch(rows=3, tokens=3, padded_tokens=3, waits_s=[], engine_s=0.008, service_s=0.01, wasted=1, late=2)
    )
    assert [value(metrics, name, **labels, reason="late") for name in names] == [2, 2]
    assert [value(metrics, name, **labels, reason="wasted") for name in names] == [1, 1]
    metrics.forget(set())
    assert [value(metrics, name, **labels, reason="late") for name in names] == [None, None]


@pytest.mark.parametrize("reason", ["refused", "unmeetable", "expired", "cancelled"])
def test_dropped_texts_are_counted_by_reason(metrics, reason):
    model = metrics.for_model("m", DIGEST)
    assert value(metrics, "palm_dropped_total", model="m", version=DIGEST[:12], reason=reason) == 0, (
        "there from the start, so that rates work"
    )
    getattr(model, reason)()
    assert value(metrics, "palm_dropped_total", model="m", version=DIGEST[:12], reason=reason) == 1


def test_calls_are_counted(metrics):
    metrics(record())
    metrics(record(method="ParseStream", seconds=3600.0, stream=True))
    metrics(record(code="RESOURCE_EXHAUSTED", reason="client_rate"))
    assert value(metrics, "palm_requests_total", method="Parse", code="OK", door="grpc") == 1
    assert value(metrics, "palm_requests_total", method="ParseStream", code="OK", door="grpc") == 1
    assert value(metrics, "palm_request_seconds_sum", method="Parse") == pytest.approx(0.008)
    assert value(metrics, "palm_request_seconds_count", method="ParseStream") is None
    assert value(metrics, "palm_refused_calls_total", method="Parse", reason="client_rate") == 1


def test_buckets_cover_one_ms_to_ten_seconds(metrics):
    metrics(record())
    bounds = [
        float(sample.labels["le"])
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "palm_request_seconds_bucket"
    ]
    assert bounds[1] <= 0.001
    assert bounds[-2:] == [10.0, float("inf")]
    assert all(upper <= 2.5 * lower for lower, upper in pairwise(bounds[:-1]))


def test_forgotten_versions_are_not_published(metrics):
    before = metrics.for_model("m", DIGEST)
    before.engine_failed()
    other = metrics.for_model("other", DIGEST)
    metrics.forget({("m", DIGEST)})
    other.engine_failed()
    assert metrics.for_model("m", DIGEST) is before
    assert value(metrics, "palm_engine_failures_total", model="m", version=DIGEST[:12]) == 1
    told = {sample.labels.get("model") for family in metrics.registry.collect() for sample in family.samples}
    assert told == {"m", None}


def test_state_gauges_are_read_at_the_scrape(metrics):
    state = {"calls": 0, "serving": False}
    metrics.watch(lambda: state["calls"], lambda: state["serving"])
    assert [value(metrics, name) for name in ("palm_calls_in_flight", "palm_serving")] == [0, 0]
    state |= {"calls": 3, "serving": True}
    assert [value(metrics, name) for name in ("palm_calls_in_flight", "palm_serving")] == [3, 1]
    assert value(metrics, "palm_threads") >= threading.active_count()


def test_served_texts_are_counted_but_not_logged(metrics, tiny_bundle):
    stream = io.StringIO()
    configure_logging("debug", json_lines=True, stream=stream)

    async def main():
        registry = Registry(provider="CPU", make_observer=metrics.for_model)
        model = await registry.load(tiny_bundle)
        await model.predict(TextRequest("fly to xylophone", ()))
        await registry.close()

    asyncio.run(main())
    version = json.loads((tiny_bundle / "manifest.json").read_text())["version"][:12]
    assert value(metrics, "palm_batch_rows_count", model="tiny", version=version) == 1
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert any(line["message"].startswith("loaded tiny") for line in lines)
    assert "xylophone" not in stream.getvalue()


def test_json_formatter_writes_one_object_a_line():
    stream = io.StringIO()
    configure_logging("info", json_lines=True, stream=stream)
    logger = logging.getLogger("palm_serve.rpc")
    logger.debug("too quiet")
    try:
        raise ValueError("inside")
    except ValueError:
        logger.exception("call failed", extra={"fields": {"request_id": "r1"}})
    (line,) = map(json.loads, stream.getvalue().splitlines())
    assert (line["level"], line["logger"], line["message"], line["request_id"]) == (
        "error",
        "palm_serve.rpc",
        "call failed",
        "r1",
    )
    assert "test_json_formatter_writes_one_object_a_line" in line["exception"]
    assert "ValueError: (may quote the request; --log-text shows it)" in line["exception"]


def crash(text):
    try:
        try:
            raise KeyError(text)
        except KeyError as error:
            raise ExceptionGroup(
                "of " + text, [OSError(28, "disk full"), RuntimeError(text), EngineError("bad graph")]
            ) from error
    except ExceptionGroup:
        logging.getLogger("palm_serve.rpc").exception("call failed")


@pytest.mark.parametrize("json_lines", [False, True])
@pytest.mark.parametrize("texts", [False, True])
def test_errors_quote_requests_only_with_log_text(json_lines, texts):
    stream = io.StringIO()
    configure_logging("info", json_lines=json_lines, stream=stream, texts=texts)
    crash("xylophone")
    logged = stream.getvalue()
    assert ("xylophone" in logged) == texts
    for part in ("KeyError", "ExceptionGroup", "RuntimeError", "EngineError: bad graph", "disk full", "in crash"):
        assert part in logged


def test_formatter_shares_no_traceback_with_other_handlers():
    """A traceback cached by another handler may quote the request, and other handlers need the complete one."""
    streams = [io.StringIO() for _ in range(3)]
    configure_logging("info", stream=streams[1])
    logger = logging.getLogger("palm_serve")
    (handler,) = logger.handlers
    first, last = logging.StreamHandler(streams[0]), logging.StreamHandler(streams[2])
    logger.handlers[:] = [first, handler, last]
    crash("xylophone")
    logger.handlers[:] = [handler, last]
    crash("xylophone")
    logged = [stream.getvalue() for stream in streams]
    assert "xylophone" in logged[0]
    assert "xylophone" not in logged[1]
    assert logged[1].count("in crash") > 0
    assert [part.count("xylophone") > 0 for part in logged[2].split("call failed")[1:]] == [True, True]


def test_formatter_escapes_control_characters():
    stream = io.StringIO()
    configure_logging("info", stream=stream)
    logging.getLogger("palm_serve").error("request %s failed", "a\n2026-01-01 ERROR all is lost\r\x1b[2J\u2028")
    (line,) = stream.getvalue().splitlines()
    assert r"request a\n2026-01-01 ERROR all is lost\r\x1b[2J\u2028 failed" in line


def test_libraries_write_to_the_same_log():
    stream = io.StringIO()
    configure_logging("info", json_lines=True, stream=stream)
    logging.getLogger("asyncio").warning("slow")
    logging.getLogger("grpc._cython").info("too quiet")
    assert [json.loads(line)["logger"] for line in stream.getvalue().splitlines()] == ["asyncio"]


def test_text_formatter_writes_plain_lines():
    stream = io.StringIO()
    configure_logging(stream=stream)
    logging.getLogger("palm_serve").warning("hello")
    assert stream.getvalue().endswith("WARNING palm_serve: hello\n")


@pytest.fixture
def access():
    """Return `access(options, *records, level=...)`, which returns the log lines of calls as JSON. None: a second passes."""

    def told(options, *records, level="warning"):
        stream, now = io.StringIO(), [100.0]
        configure_logging(level, json_lines=True, stream=stream, every_call=options.get("every_call", False))
        log = AccessLog(**options, clock=lambda: now[0])
        for one in records:
            if one is None:
                now[0] += 1
            else:
                log(one)
        return [json.loads(line) for line in stream.getvalue().splitlines()]

    return told


def test_access_log_line_has_all_fields(access):
    answered = [
        AnsweredText("m", DIGEST, Timings(100, 2_000, 30_000, 400, 5)),
        AnsweredText("m", DIGEST, Timings(200, 1_000, 20_000, 500, 3)),
    ]
    call = record(texts=2, answered=answered, request_bytes=10, response_bytes=20, trace_id="a" * 32)
    (line,) = access({"every_call": True}, call)
    assert {key: line[key] for key in line.keys() - {"time", "message"}} == {
        "level": "info",
        "logger": "palm_serve.access",
        "door": "grpc",
        "method": "Parse",
        "code": "OK",
        "ms": 4.0,
        "client": "127.0.0.1",
        "request_id": "r1",
        "trace_id": "a" * 32,
        "request_bytes": 10,
        "response_bytes": 20,
        "texts": 2,
        "model": "m",
        "version": DIGEST[:12],
        "tokenize_ms": 0.2,
        "queue_ms": 2.0,
        "inference_ms": 30.0,
        "decode_ms": 0.5,
        "batch_rows": 5,
    }


@pytest.mark.parametrize(
    ("options", "call", "level"),
    [
        ({}, record(), "debug"),
        ({"every_call": True}, record(), "info"),
        ({"every_call": True}, record(health=True), "debug"),
        ({}, record(code="INVALID_ARGUMENT"), "info"),
        ({}, record(code="CANCELLED"), "info"),
        ({}, record(code="INTERNAL"), "warning"),
        ({}, record(code="RESOURCE_EXHAUSTED", reason="queue_full"), "warning"),
        ({}, record(code="UNAVAILABLE"), "warning"),
        ({}, record(code="UNAVAILABLE", draining=True), "info"),
        ({"slow_ms": 4}, record(), "warning"),
        ({"slow_ms": 4.1}, record(), "debug"),
        ({"slow_ms": 1}, record(stream=True, seconds=3600), "debug"),
    ],
)
def test_access_log_level_of_calls(access, options, call, level):
    (line,) = access(options, call, level="debug")
    assert line["level"] == level
    heard = level == "warning" or (options.get("every_call", False) and level == "info")
    assert len(access(options, call)) == heard, "at the level of the default"


def test_access_log_limits_lines_per_second(access):
    refused = record(code="RESOURCE_EXHAUSTED", reason="queue_full")
    lines = access({}, *[refused] * 1000, record(code="INTERNAL"), None, refused, refused)
    assert [line["code"] for line in lines] == ["RESOURCE_EXHAUSTED"] * 10 + ["INTERNAL"] + ["RESOURCE_EXHAUSTED"] * 2
    assert [line.get("left_out", 0) for line in lines] == [0] * 11 + [990, 0]
    assert "990 more calls with this code were not logged" in lines[-2]["message"]
    assert len(access({"every_call": True}, *[refused] * 1000)) == 1000, "whoever asks for every call gets it"


@pytest.mark.parametrize(
    ("given", "trace"),
    [
        ({"traceparent": f"00-{'b' * 32}-{'c' * 16}-01"}, "b" * 32),
        ({"traceparent": f"00-{'b' * 32}-{'c' * 16}-01", "trace_id": "a" * 32}, "a" * 32),
        ({"traceparent": "what a nice text"}, None),
        ({}, None),
    ],
)
def test_access_log_has_the_callers_trace_id(access, given, trace):
    (line,) = access({"every_call": True}, record(**given))
    assert line.get("trace_id") == trace


def test_disconnect_errors_of_grpc_are_not_logged():
    stream = io.StringIO()
    configure_logging("info", stream=stream)
    log = logging.getLogger("grpc._cython.cygrpc")
    log.error("ExecuteBatchError raised in core by servicer method [%s]", "/palm_serve.v1.DialogueUnderstanding/Parse")
    log.error("something else")
    assert [line.split("cygrpc")[-1] for line in stream.getvalue().splitlines()] == [": something else"]


@pytest.mark.parametrize(
    ("environment", "asked"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4317"}, True),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://c:4317"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317", "OTEL_TRACES_EXPORTER": "otlp"}, True),
    ],
)
def test_traces_requested_by_environment(environment, asked):
    assert traces_requested(environment) == asked

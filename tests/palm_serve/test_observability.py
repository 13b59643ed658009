"""What operators see, and that it holds no text of a request."""

import asyncio
import io
import json
import logging

import pytest
from prometheus_client import CollectorRegistry

from palm_serve.batching import Ran
from palm_serve.errors import EngineError
from palm_serve.observability import Metrics, configure_logging
from palm_serve.registry import Registry
from palm_serve.types import TextRequest


@pytest.fixture
def metrics():
    return Metrics(CollectorRegistry())


@pytest.fixture
def restored_logger():
    loggers = [logging.getLogger(name) for name in ("palm_serve", "asyncio", "grpc")]
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    yield loggers[0]
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


def value(metrics, name, **labels):
    return metrics.registry.get_sample_value(name, labels)


def test_a_batch(metrics):
    metrics.for_model("m").ran(
        Ran(
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
    assert value(metrics, "palm_batch_rows_sum", model="m") == 3
    assert value(metrics, "palm_tokens_total", model="m") == 30
    assert value(metrics, "palm_padding_tokens_total", model="m") == 6
    assert value(metrics, "palm_queue_seconds_count", model="m") == 3
    assert value(metrics, "palm_inference_seconds_sum", model="m") == pytest.approx(0.01)
    assert value(metrics, "palm_engine_seconds_sum", model="m") == pytest.approx(0.008)
    assert value(metrics, "palm_vain_rows_total", model="m", reason="late") == 2
    assert value(metrics, "palm_vain_rows_total", model="m", reason="wasted") == 1


@pytest.mark.parametrize("reason", ["refused", "unmeetable", "expired", "cancelled"])
def test_what_costs_no_row(metrics, reason):
    model = metrics.for_model("m")
    assert value(metrics, "palm_dropped_total", model="m", reason=reason) == 0, (
        "there from the start, so that rates work"
    )
    getattr(model, reason)()
    assert value(metrics, "palm_dropped_total", model="m", reason=reason) == 1


def test_calls(metrics):
    metrics.answered("Parse", "OK", 0.004)
    assert value(metrics, "palm_requests_total", method="Parse", code="OK") == 1
    assert value(metrics, "palm_request_seconds_sum", method="Parse") == pytest.approx(0.004)


def test_a_served_model_is_counted_and_its_texts_are_not_logged(metrics, tiny_bundle, restored_logger):
    stream = io.StringIO()
    configure_logging("debug", json_lines=True, stream=stream)

    async def main():
        registry = Registry(provider="CPU", observe=metrics.for_model)
        model = await registry.load(tiny_bundle)
        await model.predict(TextRequest("fly to xylophone", ()))
        await registry.close()

    asyncio.run(main())
    assert value(metrics, "palm_batch_rows_count", model="tiny") == 1
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert any(line["message"].startswith("loaded tiny") for line in lines)
    assert "xylophone" not in stream.getvalue()


def test_json_lines(restored_logger):
    stream = io.StringIO()
    configure_logging("info", json_lines=True, stream=stream)
    logger = logging.getLogger("palm_serve.door")
    logger.debug("too quiet")
    try:
        raise ValueError("inside")
    except ValueError:
        logger.exception("call failed", extra={"fields": {"request_id": "r1"}})
    (line,) = map(json.loads, stream.getvalue().splitlines())
    assert (line["level"], line["logger"], line["message"], line["request_id"]) == (
        "error",
        "palm_serve.door",
        "call failed",
        "r1",
    )
    assert "test_json_lines" in line["exception"]
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
        logging.getLogger("palm_serve.door").exception("call failed")


@pytest.mark.parametrize("json_lines", [False, True])
@pytest.mark.parametrize("texts", [False, True])
def test_errors_quote_requests_only_where_texts_may_be_logged(restored_logger, json_lines, texts):
    stream = io.StringIO()
    configure_logging("info", json_lines=json_lines, stream=stream, texts=texts)
    crash("xylophone")
    logged = stream.getvalue()
    assert ("xylophone" in logged) == texts
    for part in ("KeyError", "ExceptionGroup", "RuntimeError", "EngineError: bad graph", "disk full", "in crash"):
        assert part in logged


def test_a_client_cannot_forge_a_line(restored_logger):
    stream = io.StringIO()
    configure_logging("info", stream=stream)
    logging.getLogger("palm_serve").error("request %s failed", "a\n2026-01-01 ERROR all is lost\r\x1b[2J\u2028")
    (line,) = stream.getvalue().splitlines()
    assert r"request a\n2026-01-01 ERROR all is lost\r\x1b[2J\u2028 failed" in line


def test_other_libraries_write_to_the_same_log(restored_logger):
    stream = io.StringIO()
    configure_logging("info", json_lines=True, stream=stream)
    logging.getLogger("asyncio").warning("slow")
    logging.getLogger("grpc._cython").info("too quiet")
    assert [json.loads(line)["logger"] for line in stream.getvalue().splitlines()] == ["asyncio"]


def test_plain_lines(restored_logger):
    stream = io.StringIO()
    configure_logging(stream=stream)
    logging.getLogger("palm_serve").warning("hello")
    assert stream.getvalue().endswith("WARNING palm_serve: hello\n")

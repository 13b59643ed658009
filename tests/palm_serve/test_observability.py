"""What operators see, and that it holds no text of a request."""

import asyncio
import io
import json
import logging

import pytest
from prometheus_client import CollectorRegistry

from palm_serve.batching import Ran
from palm_serve.observability import Metrics, configure_logging
from palm_serve.registry import Registry
from palm_serve.types import TextRequest


@pytest.fixture
def metrics():
    return Metrics(CollectorRegistry())


@pytest.fixture
def restored_logger():
    logger = logging.getLogger("palm_serve")
    before = logger.handlers[:], logger.level, logger.propagate
    yield logger
    logger.handlers[:], logger.propagate = before[0], before[2]
    logger.setLevel(before[1])


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
    assert "ValueError: inside" in line["exception"]


def test_plain_lines(restored_logger):
    stream = io.StringIO()
    configure_logging(stream=stream)
    logging.getLogger("palm_serve").warning("hello")
    assert stream.getvalue().endswith("WARNING palm_serve: hello\n")

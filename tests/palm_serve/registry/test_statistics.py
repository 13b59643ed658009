"""Sums over what a model did."""

import asyncio

import pytest

from palm_serve.batching import BatchLimits
from palm_serve.errors import DeadlineExceeded
from palm_serve.registry import Registry
from palm_serve.registry.statistics import ModelStatistics
from palm_serve.types import Prediction, TextRequest, Timings


def answered(*timings: Timings) -> list[Prediction]:
    return [Prediction({}, False, 0, spent) for spent in timings]


def test_statistics_sum_texts_and_batches() -> None:
    statistics = ModelStatistics()
    assert (statistics.texts, statistics.batches, statistics.last_ms, statistics.by_size) == (0, 0, 0, [])
    statistics.record_batch(answered(Timings(1, 10, 100, 1000, 2), Timings(2, 20, 100, 1000, 2)))
    statistics.record_batch(answered(Timings(4, 0, 50, 500, 1)))
    assert (statistics.texts, statistics.batches) == (3, 2)
    assert (statistics.success.count, statistics.success.ns) == (3, 1000 * (1111 + 1122 + 554))
    assert (statistics.queue.count, statistics.queue.ns) == (3, 30_000)
    assert (statistics.compute.tokenize.ns, statistics.compute.inference.ns) == (7_000, 250_000)
    assert [size for size, _ in statistics.by_size] == [1, 2]
    pair = statistics.by_size[1][1]
    assert (pair.tokenize.ns, pair.inference.ns, pair.decode.ns) == (3_000, 100_000, 1_000_000)
    assert pair.inference.count == 1
    statistics.record_failure(5)
    assert (statistics.failure.count, statistics.failure.ns) == (1, 5)


def test_model_counts_answers_and_failures(tiny_bundle) -> None:
    async def main() -> None:
        registry = Registry(provider="CPU", limits=BatchLimits(max_rows=2))
        try:
            model = await registry.load(tiny_bundle)
            assert model.statistics.texts == 0  # golden examples and warm-up are no requests
            await model.predict_many([TextRequest("play a song", ())] * 3)
            await model.predict(TextRequest("hello", ()))
            with pytest.raises(DeadlineExceeded):
                await model.predict(TextRequest("hello", (), deadline=0.0))
            statistics = model.statistics
            assert (statistics.texts, statistics.batches, statistics.failure.count) == (4, 3, 1)
            assert [(size, compute.inference.count) for size, compute in statistics.by_size] == [(1, 2), (2, 1)]
        finally:
            await registry.close()

    asyncio.run(main())

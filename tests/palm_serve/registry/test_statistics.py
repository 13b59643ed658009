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


def test_texts_and_batches() -> None:
    seen = ModelStatistics()
    assert (seen.texts, seen.batches, seen.last_ms, seen.by_size) == (0, 0, 0, [])
    seen.ran(answered(Timings(1, 10, 100, 1000, 2), Timings(2, 20, 100, 1000, 2)))
    seen.ran(answered(Timings(4, 0, 50, 500, 1)))
    assert (seen.texts, seen.batches) == (3, 2)
    assert (seen.success.count, seen.success.ns) == (3, 1000 * (1111 + 1122 + 554))
    assert (seen.queue.count, seen.queue.ns) == (3, 30_000)
    assert (seen.compute.tokenize.ns, seen.compute.inference.ns) == (7_000, 250_000)
    assert [size for size, _ in seen.by_size] == [1, 2]
    pair = seen.by_size[1][1]
    assert (pair.tokenize.ns, pair.inference.ns, pair.decode.ns) == (3_000, 100_000, 1_000_000)
    assert pair.inference.count == 1
    seen.failed(5)
    assert (seen.failure.count, seen.failure.ns) == (1, 5)


def test_a_model_counts_what_it_answers_and_what_fails(tiny_bundle) -> None:
    async def main() -> None:
        registry = Registry(provider="CPU", limits=BatchLimits(max_rows=2))
        try:
            model = await registry.load(tiny_bundle)
            assert model.statistics.texts == 0  # golden examples and warm-up are no requests
            await model.predict_many([TextRequest("play a song", ())] * 3)
            await model.predict(TextRequest("hello", ()))
            with pytest.raises(DeadlineExceeded):
                await model.predict(TextRequest("hello", (), deadline=0.0))
            seen = model.statistics
            assert (seen.texts, seen.batches, seen.failure.count) == (4, 3, 1)
            assert [(size, compute.inference.count) for size, compute in seen.by_size] == [(1, 2), (2, 1)]
        finally:
            await registry.close()

    asyncio.run(main())

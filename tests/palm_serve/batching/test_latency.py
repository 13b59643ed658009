"""The latency model learns the speed of an engine, and outliers do not mislead it."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palm_serve.batching import Costs, LatencyModel

A, B = 0.002, 3e-5


def train(batches, chance, a=A, b=B, sizes=(8, 2048), outliers=0.0, model=None):
    model = model or LatencyModel()
    for _ in range(batches):
        tokens = chance.randint(*sizes)
        seconds = (a + b * tokens) * chance.lognormvariate(0, 0.05)
        model.observe(tokens, seconds * (20 if chance.random() < outliers else 1))
    return model


def test_latency_before_any_batch_is_zero():
    model = LatencyModel()
    assert model.costs == Costs(0.0, 0.0)
    assert model.bound(100) == 0


def test_latency_after_one_batch_is_that_batch():
    model = LatencyModel()
    model.observe(100, 0.01)
    assert model.predict(100) == pytest.approx(0.01)
    assert model.predict(200) == pytest.approx(0.015), "half of it is attributed to the batch, half to its tokens"


@pytest.mark.parametrize("outliers", [0.0, 0.05])
@pytest.mark.parametrize("seed", range(5))
def test_latency_recovers_the_line_and_the_spread(seed, outliers):
    model = train(300, random.Random(seed), outliers=outliers)
    for tokens in (8, 500, 2048):
        assert model.predict(tokens) == pytest.approx(A + B * tokens, rel=0.2)
    assert 0.02 < model.spread < 0.3


@pytest.mark.parametrize("factor", [0.4, 3.0])
def test_latency_follows_a_change_of_speed(factor):
    chance = random.Random(3)
    model = train(200, chance)
    train(60, chance, a=factor * A, b=factor * B, model=model)
    assert model.predict(1000) == pytest.approx(factor * (A + 1000 * B), rel=0.15)


def test_latency_after_one_pause_changes_little():
    model = train(200, random.Random(4))
    before = model.predict(500)
    model.observe(500, 5.0)
    assert model.predict(500) == pytest.approx(before, rel=0.25)


def test_latency_of_large_batches_survives_small_ones():
    chance = random.Random(5)
    model = train(200, chance)
    train(5000, chance, sizes=(10, 12), model=model)
    assert model.predict(2000) == pytest.approx(A + 2000 * B, rel=0.5)


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.floats(0, 1e4)), max_size=60))
def test_latency_is_finite_and_grows_with_tokens(observations):
    model = LatencyModel()
    for tokens, seconds in observations:
        model.observe(tokens, seconds)
        times = [model.predict(size) for size in (1, 100, 10**6)]
        assert times == sorted(times)
        assert times[0] >= 0
        assert times[-1] <= model.bound(10**6) < 1e12

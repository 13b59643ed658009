"""Response times of a replica in cases with a closed form."""

import math

import pytest

from palm_serve.capacity.response_time import LevelTimes, ResponseTimes


def level(callers: int, calls_per_s: float, seconds: float) -> LevelTimes:
    """A level whose calls all take the same time."""
    return LevelTimes(callers, calls_per_s, ((1e-6, seconds), (1.0, seconds)))


def single_server(speed: float) -> ResponseTimes:
    """A server that answers one call after the other: M/M/1."""
    return ResponseTimes([level(callers, speed, callers / speed) for callers in (1, 8, 64)])


@pytest.mark.parametrize("load", [0.3, 0.5, 0.8, 0.9])
def test_one_call_at_a_time_is_mm1(load: float) -> None:
    """The number of calls is geometric: P(N >= k) = load^k, and the call that finds k takes (k + 1) / speed."""
    times = single_server(100.0)
    found = math.ceil(math.log(0.01) / math.log(load)) - 1
    assert times.quantile(100 * load, 0.99) == pytest.approx((found + 1) / 100)
    assert times.mean(100 * load) == pytest.approx(1 / (100 - 100 * load))


def test_calls_that_do_not_wait_take_the_time_of_one() -> None:
    """Without a queue (infinitely many servers) the time does not depend on the rate."""
    times = ResponseTimes([level(callers, callers / 0.01, 0.01) for callers in (1, 2, 4, 8, 16, 32, 64, 128, 256)])
    for rate in (1, 100, 5000):
        assert times.quantile(rate, 0.99) == pytest.approx(0.01)


def test_lone_calls_have_the_times_of_one_caller() -> None:
    times = ResponseTimes([LevelTimes(1, 100, ((0.5, 0.01), (0.99, 0.02), (1.0, 0.03))), level(8, 200, 0.04)])
    assert times.quantile(0.0, 0.99) == pytest.approx(0.02, rel=0.05)
    assert times.quantile(0.0, 0.5) == pytest.approx(0.01, rel=0.05)


def test_rates_at_the_capacity_have_no_time() -> None:
    times = single_server(100.0)
    assert times.capacity == 100
    assert times.quantile(100.0, 0.5) == math.inf
    assert times.mean(150.0) == math.inf


def test_levels_that_are_slower_than_smaller_ones_are_noise() -> None:
    times = ResponseTimes([level(1, 100, 0.01), level(2, 120, 0.02), level(4, 110, 0.04)])
    assert times.capacity == 120


@pytest.mark.parametrize("limit_s", [0.02, 0.1, 0.3])
def test_highest_rate_is_the_highest(limit_s: float) -> None:
    times = single_server(100.0)
    rate = times.highest_rate(0.99, limit_s, 90.0)
    assert 0 < rate < 90
    assert times.quantile(rate, 0.99) <= limit_s
    assert times.quantile(rate + 0.1, 0.99) > limit_s


def test_highest_rate_is_at_most_the_ceiling() -> None:
    assert single_server(100.0).highest_rate(0.99, 10.0, 60.0) == 60.0


def test_no_rate_is_faster_than_a_lone_call() -> None:
    assert single_server(100.0).highest_rate(0.99, 0.009, 90.0) == 0.0

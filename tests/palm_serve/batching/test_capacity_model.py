"""The queueing model of `palm-serve plan` against the simulator, which runs the real admission controller."""

from dataclasses import replace

import numpy as np
import pytest

from palm_serve.capacity.response_time import LevelTimes, ResponseTimes

CALLERS = (1, 2, 4, 8, 16, 32, 64)
FRACTIONS = (0.5, 0.9, 0.99, 0.999, 1.0)


def measure(simulator, lengths):
    """What a sweep of `palm-serve bench` would measure."""
    levels = []
    for callers in CALLERS:
        rate, seconds = simulator.closed_loop(callers, 500 + 15 * callers, lengths)
        quantiles = zip(FRACTIONS, map(float, np.quantile(seconds, FRACTIONS)), strict=True)
        levels.append(LevelTimes(callers, rate, tuple(quantiles)))
    return ResponseTimes(levels)


@pytest.mark.parametrize("load", [0.2, 0.4, 0.6])
@pytest.mark.parametrize(
    ("engine", "longest"),
    [
        pytest.param({"per_batch": 0.002}, 40, id="batches that cost much by themselves"),
        pytest.param({"per_batch": 0.0002}, 40, id="texts that cost much"),
        pytest.param({"per_batch": 0.002}, 256, id="rare long texts"),
    ],
)
def test_planned_times_are_those_of_the_simulator(make_simulator, make_engine, engine, longest, load):
    """The model may be a third too careful, and little too bold: nobody plans on less than there is."""
    simulator = make_simulator(make_engine(**engine))
    times = measure(simulator, lambda chance: min(longest, simulator.poisson(1.0, 1, chance.random())[0].length))
    rate = load * times.capacity
    arrivals = [replace(arrival, length=min(longest, arrival.length)) for arrival in simulator.poisson(rate, 4000, 7)]
    report = simulator.run(arrivals)
    seconds = [report.answered[number] - arrival.at for number, arrival in enumerate(arrivals)]
    assert 0.85 <= times.mean(rate) / np.mean(seconds) <= 1.5
    assert 0.85 <= times.quantile(rate, 0.99) / np.quantile(seconds, 0.99) <= 1.5


def test_planned_rate_keeps_its_time_in_the_simulator(make_simulator, make_engine):
    simulator = make_simulator(make_engine(per_batch=0.0005))
    times = measure(simulator, lambda chance: min(40, simulator.poisson(1.0, 1, chance.random())[0].length))
    limit = 6 * times.quantile(0.0, 0.99)
    rate = times.highest_rate(0.99, limit, 0.9 * times.capacity)
    assert 0.2 * times.capacity < rate < 0.9 * times.capacity
    arrivals = [replace(arrival, length=min(40, arrival.length)) for arrival in simulator.poisson(rate, 6000, 8)]
    report = simulator.run(arrivals)
    seconds = [report.answered[number] - arrival.at for number, arrival in enumerate(arrivals)]
    assert np.quantile(seconds, 0.99) <= limit

"""Guarantees of the admission controller on simulated time: padding, waits, deadlines, overload, priorities."""

import random
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from palm_serve.batching import WEIGHTS, BatchLimits
from palm_serve.types import Priority

COUNTS = [pytest.param(20_000), pytest.param(1_000_000, marks=pytest.mark.slow)]


def shorten(arrivals, longest=40):
    """Cut the rare long requests, which make batches in order of arrival mostly padding."""
    return [replace(arrival, length=min(arrival.length, longest)) for arrival in arrivals]


def full_batch(simulator, longest=40):
    return simulator.engine.per_batch + simulator.engine.per_token * longest * simulator.limits.max_rows


def goodput(report, arrivals, begin, end):
    """Return the answers a second within their deadlines, between two times."""
    return sum(begin <= at <= min(end, arrivals[i].at + arrivals[i].within) for i, at in report.answered.items()) / (
        end - begin
    )


def loaded(simulator, count, load, seed=7, **fields):
    return simulator.poisson(load * simulator.capacity(), count, seed, **fields)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("load", [0.2, 0.6, 0.95])
def test_steady_load_bounds_padding_and_waits(simulator, count, load):
    arrivals = shorten(loaded(simulator, count, load))
    report, reference = simulator.run(arrivals), simulator.in_order(arrivals)
    assert sorted(report.answered) == list(range(count)), "everyone is answered"
    assert report.rows == count
    assert report.padding <= 0.105
    excess = max(report.waits[i] - 2 * reference.waits[i] for i in range(count))
    assert excess <= full_batch(simulator), "twice the wait in order of arrival, and the batch that runs"


def test_rare_long_requests_keep_padding_low(simulator):
    """Two in a hundred are ten times as long; in order of arrival most of the work would be padding."""
    arrivals = loaded(simulator, 20_000, 0.95)
    report, reference = simulator.run(arrivals), simulator.in_order(arrivals)
    assert report.padding <= 0.105
    assert reference.padding > 0.5
    longs = [i for i, arrival in enumerate(arrivals) if arrival.length >= 128]
    assert max(report.waits[i] for i in longs) < 1
    excess = max(report.waits[i] - 2 * reference.waits[i] for i in range(len(arrivals)))
    assert excess <= full_batch(simulator)


@settings(max_examples=25, deadline=None)
@given(
    bursts=st.lists(st.tuples(st.floats(0, 0.5), st.integers(1, 200)), min_size=1, max_size=8),
    seed=st.integers(0, 1000),
    odd=st.integers(1, 64),
)
@example(bursts=[(0.0, 65)], seed=237, odd=1)
def test_bursts_of_any_length_starve_no_request(make_simulator, make_engine, bursts, seed, odd):
    """Bursts of one length with somebody of another length in their midst, before an engine whose batches take as long as they should."""
    simulator, chance, at, arrivals = make_simulator(make_engine(noise=0.0)), random.Random(seed), 0.0, []
    for pause, size in bursts:
        at += pause
        base = chance.randint(1, 64)
        lengths = [odd if number == size // 2 else base for number in range(size)]
        arrivals += [
            replace(arrival, at=at, length=length)
            for arrival, length in zip(simulator.poisson(1.0, size, seed), lengths, strict=True)
        ]
    report, reference = simulator.run(arrivals), simulator.in_order(arrivals)
    assert sorted(report.answered) == list(range(len(arrivals)))
    for i, wait in report.waits.items():
        # What is before it in order of arrival is what runs until then, and the batch that it would be in.
        assert wait <= 2 * (reference.waits[i] + full_batch(simulator, 64))


@pytest.mark.parametrize("count", COUNTS)
def test_overload_keeps_the_goodput(simulator, count):
    """At three times the capacity, with deadlines of a second: as many answers as ever, and none of them in vain."""
    capacity = simulator.capacity()
    peak_arrivals = simulator.poisson(1.5 * capacity, 12_000, 5, within=1.0)
    peak_report = simulator.run(peak_arrivals)
    peak = max(capacity, goodput(peak_report, peak_arrivals, 1, peak_arrivals[-1].at))
    arrivals = simulator.poisson(3 * capacity, count, 6, within=1.0)
    report = simulator.run(arrivals)
    assert goodput(report, arrivals, 1, arrivals[-1].at) >= 0.95 * peak
    assert report.wasted == 0
    assert report.late <= 1e-3 * report.rows
    assert report.refused
    assert min(report.refused.values()) > 0, "all get a retry delay"
    classes = [
        [i for i, arrival in enumerate(arrivals) if low <= arrival.length < high]
        for low, high in ((0, 10), (10, 40), (40, 300))
    ]
    shares = [sum(i in report.answered for i in members) / len(members) for members in classes]
    assert min(shares) > 0.7 * max(shares), "long and short are refused alike"


def test_overload_of_a_noisy_engine_keeps_the_goodput(make_simulator, make_engine):
    """One batch in three takes half as long again as expected, or less than two thirds."""
    simulator = make_simulator(make_engine(noise=0.5))
    capacity = simulator.capacity()
    arrivals = simulator.poisson(3 * capacity, 20_000, 6, within=1.0)
    report = simulator.run(arrivals)
    assert report.wasted == 0
    assert report.late <= 0.005 * report.rows
    assert goodput(report, arrivals, 1, arrivals[-1].at) >= capacity


def test_overload_that_ends_is_over_within_a_second(simulator):
    capacity = simulator.capacity()
    storm = simulator.poisson(3 * capacity, int(9 * capacity), 8, within=1.0)
    calm = simulator.poisson(0.5 * capacity, int(2 * capacity), 9, start=storm[-1].at, within=1.0)
    calm_report = simulator.run(simulator.poisson(0.5 * capacity, int(2 * capacity), 9, within=1.0))
    report = simulator.run([*storm, *calm])
    after = sorted(
        wait for i, wait in report.waits.items() if i >= len(storm) and calm[i - len(storm)].at > storm[-1].at + 1
    )
    usual = sorted(calm_report.waits.values())
    assert after[int(0.99 * len(after))] <= 1.1 * usual[int(0.99 * len(usual))] + 0.002
    assert not [i for i in report.refused if i >= len(storm) and calm[i - len(storm)].at > storm[-1].at + 1]


@pytest.mark.parametrize("count", COUNTS)
def test_callers_that_leave_are_not_run(simulator, count):
    chance = random.Random(11)
    arrivals = [
        replace(arrival, leaves=chance.uniform(0, 0.3) if chance.random() < 0.3 else float("inf"), within=w)
        for arrival, w in ((a, chance.choice([0.05, 0.2, 1.0, float("inf")])) for a in loaded(simulator, count, 1.5))
    ]
    report = simulator.run(arrivals)
    assert report.wasted == 0
    assert report.left
    outcomes = [set(report.answered), set(report.refused), report.lost, report.left]
    assert sum(map(len, outcomes)) == len(set().union(*outcomes)) == count, "everyone has one end"
    assert report.rows == len(report.answered)


def test_short_deadline_overtakes_and_makes_no_one_late(simulator):
    """A few in a hurry among many that have time."""
    chance = random.Random(12)
    arrivals = [
        replace(arrival, within=0.15 if chance.random() < 0.05 else 5.0) for arrival in loaded(simulator, 6_000, 1.1)
    ]
    report = simulator.run(arrivals)
    hurried = [i for i, arrival in enumerate(arrivals) if arrival.within < 1]
    patient = [report.waits[i] for i in report.waits if arrivals[i].within > 1]
    assert sum(i in report.answered for i in hurried) > 0.95 * len(hurried)
    assert max(report.waits[i] for i in hurried if i in report.waits) < 0.15
    assert max(patient) > 0.15, "the queue was longer than they could wait"
    assert report.late == 0


def test_unmeetable_deadline_is_refused_at_once(simulator):
    arrivals = loaded(simulator, 500, 0.2)
    arrivals += [replace(arrivals[-1], at=arrivals[-1].at + 1 + i, length=40, within=0.002) for i in range(10)]
    report = simulator.run(arrivals)
    assert set(range(500, 510)) == set(report.refused)


def run_both_priorities(simulator, interactive, batch, count=6_000):
    capacity = simulator.capacity()
    streams = [
        simulator.poisson(share * capacity, int(share * count), seed, priority=priority)
        for share, seed, priority in ((interactive, 1, Priority.INTERACTIVE), (batch, 2, Priority.BATCH))
    ]
    arrivals = sorted((a for stream in streams for a in stream), key=lambda a: a.at)
    return arrivals, simulator.run(arrivals)


def quantile(report, arrivals, select, q=0.99):
    waits = sorted(wait for i, wait in report.waits.items() if select(arrivals[i]))
    return waits[int(q * len(waits))]


def test_batch_priority_yields_to_interactive(simulator):
    """A flood of them delays an interactive request by little more than the batch that runs."""
    arrivals, report = run_both_priorities(simulator, 0.2, 2.0)
    assert quantile(report, arrivals, lambda a: a.priority is Priority.INTERACTIVE) < 0.2
    assert quantile(report, arrivals, lambda a: a.priority is Priority.BATCH, 0.5) > 0.3


def test_batch_priority_never_starves(make_simulator):
    simulator = make_simulator(limits=BatchLimits(max_waiting=500))
    arrivals, report = run_both_priorities(simulator, 2.0, 1.0)
    end = min(max(a.at for a in arrivals if a.priority is p) for p in Priority)
    tokens = dict.fromkeys(Priority, 0)
    for i, at in report.answered.items():
        if 1 <= at <= end:
            tokens[arrivals[i].priority] += arrivals[i].length
    share = tokens[Priority.BATCH] / sum(tokens.values())
    fair = WEIGHTS[Priority.BATCH] / sum(WEIGHTS.values())
    assert share == pytest.approx(fair, rel=0.35)


def test_busy_model_leaves_another_its_share(make_simulator):
    simulator = make_simulator(limits=BatchLimits(max_waiting=300))
    capacity = simulator.capacity()
    greedy = simulator.poisson(4 * capacity, int(12 * capacity), 1, model=0)
    modest = simulator.poisson(0.3 * capacity, int(0.9 * capacity), 2, model=1)
    arrivals = sorted([*greedy, *modest], key=lambda a: a.at)
    report = simulator.run(arrivals)
    modest_requests = [i for i, arrival in enumerate(arrivals) if arrival.model == 1]
    assert all(i in report.answered for i in modest_requests), "within its half nobody is refused"
    assert max(report.waits[i] for i in modest_requests) < 0.4


def test_full_queue_refuses_by_requests_and_by_tokens(make_simulator):
    for limits in (BatchLimits(max_waiting=100), BatchLimits(max_waiting_tokens=1_000)):
        simulator = make_simulator(limits=limits)
        arrivals = [replace(arrival, at=0.0, length=20) for arrival in simulator.poisson(1.0, 300, 1)]
        report = simulator.run(arrivals)
        assert len(report.answered) == min(limits.max_waiting, limits.max_waiting_tokens // 20)
        assert len(report.refused) == 300 - len(report.answered)

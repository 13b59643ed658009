"""The log of a run as curves."""

from hypothesis import given
from hypothesis import strategies as st

from palm_trainer.report.history import flat, read_history, smoothed, thinned


def test_log_of_a_run():
    events = [
        {"event": "start", "time": 10.0, "step": 0, "device": "cpu"},
        {"event": "step", "time": 11.0, "step": 2, "losses": {"a": 2.0, "b": 1.0}, "examples": 8, "seconds": 0.5},
        {"event": "step", "time": 12.0, "step": 4, "losses": {"a": 1.0}, "examples": 8, "seconds": 0.5},
        {
            "event": "evaluation",
            "time": 13.0,
            "step": 4,
            "epoch": 1.0,
            "metrics": {"a": {"f1": 0.5}, "exact_match": 0.1},
            "best": True,
        },
        {"event": "evaluation", "time": 20.0, "step": 8, "epoch": 2.0, "metrics": {"a": {"f1": 0.4}}, "best": False},
        {"event": "something new", "time": 21.0, "step": 8},
    ]
    history = read_history(events)
    assert history.losses == {"a": [(2, 2.0), (4, 1.0)], "b": [(2, 1.0)]}
    assert history.best is history.evaluations[0]
    assert history.best.metrics == {"a.f1": 0.5, "exact_match": 0.1}
    assert (history.seconds, history.examples_per_second, history.start["device"]) == (11.0, 16.0, "cpu")


def test_empty_log():
    history = read_history([])
    assert (history.losses, history.best, history.seconds) == ({}, None, 0.0)


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 10)), max_size=90), st.integers(1, 20))
def test_thinned_and_smoothed(points, limit):
    found = thinned(points, limit)
    assert len(found) <= limit
    assert bool(found) == bool(points)
    assert len(smoothed(points)) == len(points)
    if points:
        low, high = min(y for _, y in points), max(y for _, y in points)
        assert all(low - 1e-6 <= y <= high + 1e-6 for _, y in [*found, *smoothed(points)])


def test_flat():
    assert dict(flat({"a": {"b": {"c": 1}}, "d": 0.5, "note": "text"})) == {"a.b.c": 1.0, "d": 0.5}

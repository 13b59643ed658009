"""Curves from the log of a run."""

from hypothesis import given
from hypothesis import strategies as st

from palm_trainer.report.history import flatten_metrics, read_history, smooth_curve, thin_curve


def test_read_history_collects_losses_and_evaluations():
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


def test_read_history_of_an_empty_log_is_empty():
    history = read_history([])
    assert (history.losses, history.best, history.seconds) == ({}, None, 0.0)


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 10)), max_size=90), st.integers(1, 20))
def test_thin_and_smooth_curves_stay_in_range(points, limit):
    thin = thin_curve(points, limit)
    assert len(thin) <= limit
    assert bool(thin) == bool(points)
    assert len(smooth_curve(points)) == len(points)
    if points:
        values = [y for _, y in points]
        for _, y in [*thin, *smooth_curve(points)]:
            assert min(values) - 1e-6 <= y <= max(values) + 1e-6


def test_flatten_metrics_joins_names_with_dots():
    assert flatten_metrics({"a": {"b": {"c": 1}}, "d": 0.5, "note": "text"}) == {"a.b.c": 1.0, "d": 0.5}

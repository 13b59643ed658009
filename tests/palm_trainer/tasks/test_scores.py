"""Scores behind the tables, against small cases counted by hand and against the metrics of the evaluation."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palm_trainer.tasks.metrics import span_scores
from palm_trainer.tasks.scores import (
    NOTHING,
    confusion,
    label_pairs,
    label_scores,
    match_thresholds,
    reading_by_length,
    set_confusions,
    span_errors,
    thresholds,
)

UNITS = st.frozensets(st.tuples(st.integers(0, 4), st.integers(4, 8), st.sampled_from("ab")), max_size=3)


def test_label_scores_by_hand():
    gold, predicted = ["a", "a", "a", "b", "c"], ["a", "a", "b", "b", "b"]
    a, b, c = label_scores((({g}, {p}) for g, p in zip(gold, predicted, strict=True)), str)
    assert (a.label, a.precision, a.recall, a.f1, a.support, a.answered) == ("a", 1.0, 2 / 3, 0.8, 3, 2)
    assert (b.precision, b.recall, b.f1) == (1 / 3, 1.0, 0.5)
    assert (c.label, c.precision, c.recall, c.f1, c.support, c.answered) == ("c", None, 0.0, 0.0, 1, 0)


@given(st.lists(st.tuples(UNITS, UNITS), max_size=6))
def test_label_scores_add_up_to_the_span_scores(rows):
    found = label_scores(rows, lambda unit: unit[2])
    support, answered = sum(one.support for one in found), sum(one.answered for one in found)
    hits = sum(round((one.recall or 0) * one.support) for one in found)
    total = span_scores([g for g, _ in rows], [p for _, p in rows])
    assert total["recall"] == pytest.approx(hits / support if support else 0)
    assert total["precision"] == pytest.approx(hits / answered if answered else 0)


def test_confusion_of_few_labels_is_whole():
    found = confusion(label_pairs("aaab", "aabc"))
    assert found.labels == ("a", "b", "c")
    assert found.counts == ((2, 1, 0), (0, 0, 1), (0, 0, 0))
    assert (found.errors, found.shown_errors, found.all_labels) == (2, 2, 3)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=1, max_size=80), st.integers(2, 30))
def test_confusion_shows_no_more_labels_than_asked(rows, limit):
    found = confusion(Counter((str(g), str(p)) for g, p in rows), limit)
    assert len(found.labels) <= limit
    assert found.errors == sum(g != p for g, p in rows)
    assert 0 <= found.shown_errors <= found.errors
    if found.all_labels <= limit:
        assert sum(map(sum, found.counts)) == len(rows)
        assert found.shown_errors == found.errors
    else:
        wrong = {str(x) for g, p in rows if g != p for x in (g, p)}
        assert set(found.labels) <= wrong


def test_kinds_of_span_errors():
    gold = frozenset({(0, 1, "city"), (3, 3, "day"), (5, 6, "time"), (8, 8, "name")})
    answered = frozenset({(0, 1, "place"), (3, 4, "day"), (6, 7, "day"), (10, 10, "city")})
    kinds, taken = span_errors([(gold, answered, True)])
    assert kinds == {
        "right boundaries, wrong type": 1,
        "right type, wrong boundaries": 1,
        "wrong type and boundaries": 1,
        "invented: nothing is there": 1,
        "missed: nothing was answered there": 1,
    }
    assert taken == {("city", "place"): 1, ("time", "day"): 1, (NOTHING, "city"): 1, ("name", NOTHING): 1}


@pytest.mark.parametrize(
    ("inclusive", "kind"), [(True, "right type, wrong boundaries"), (False, "invented: nothing is there")]
)
def test_spans_that_touch_meet_only_where_ends_are_inclusive(inclusive, kind):
    kinds, _ = span_errors([(frozenset({(0, 2, "a")}), frozenset({(2, 4, "a")}), inclusive)])
    assert kinds[kind] == 1


def test_thresholds():
    found = thresholds([(0.9, True), (0.6, False), (0.4, True)], (0.0, 0.5, 0.95))
    assert [(one.share, one.accuracy) for one in found] == [(1.0, 2 / 3), (2 / 3, 0.5), (0.0, None)]


def test_match_thresholds():
    low, high, above = match_thresholds([(0.9, True), (0.7, False), (0.2, True), (0.1, False)], (0.0, 0.8, 1.0))
    assert (low.precision, low.recall, low.false_positive_rate) == (0.5, 1.0, 1.0)
    assert (high.precision, high.recall, high.f1, high.false_positive_rate) == (1.0, 0.5, 2 / 3, 0.0)
    assert (above.precision, above.recall) == (None, 0.0)
    assert match_thresholds([(0.3, False)], (0.5,))[0].recall is None


def test_reading_by_length():
    gold = [("",), ("the cat",), ("a b c d e f", "b c"), ("x " * 20,)]
    found = reading_by_length(gold, ["", "dog", "b c", "x " * 20])
    assert [(one.tokens, one.exact_match, one.support) for one in found] == [
        ("no answer", 1.0, 1),
        ("1", 0.0, 1),
        ("2", 1.0, 1),
        ("17 or more", 1.0, 1),
    ]


def test_set_confusions():
    rows = [(frozenset("ab"), frozenset("ac")), (frozenset("a"), frozenset()), (frozenset("a"), frozenset("a"))]
    assert set_confusions(rows) == {("b", "c"): 1, ("a", NOTHING): 1}

"""Metrics against seqeval, and the edges of projecting spans to words."""

import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics.v1 import precision_recall_fscore_support
from seqeval.scheme import IOB2

from palm_trainer.data.example import LabelledSpan
from palm_trainer.tasks.metrics import accuracy, expected_calibration_error, span_scores, to_units

TAGS = st.sampled_from(["O", "B-a", "I-a", "B-b", "I-b"])


def spans_of(tags):
    """Strict IOB2: a span begins with B- and runs over the I- of its own type; an I- without a beginning is none."""
    spans, start, label = [], None, None
    for i, tag in enumerate([*tags, "O"]):
        if start is not None and tag != f"I-{label}":
            spans.append((start, i - 1, label))
            start = None
        if tag.startswith("B-"):
            start, label = i, tag[2:]
    return frozenset(spans)


@given(
    st.lists(
        st.integers(1, 7).flatmap(lambda n: st.tuples(*[st.lists(TAGS, min_size=n, max_size=n)] * 2)),
        min_size=1,
        max_size=5,
    )
)
def test_span_scores_are_seqevals_strict_ones(rows):
    gold, predicted = [list(g) for g, _ in rows], [list(p) for _, p in rows]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        precision, recall, f1, _ = precision_recall_fscore_support(
            gold, predicted, scheme=IOB2, average="micro", zero_division=0
        )
    found = span_scores([spans_of(g) for g in gold], [spans_of(p) for p in predicted])
    assert found == pytest.approx({"f1": f1, "precision": precision, "recall": recall})


def test_nothing_gold_nothing_found():
    assert span_scores([frozenset()], [frozenset()]) == {"f1": 0.0, "precision": 0.0, "recall": 0.0}
    assert span_scores([], []) == {"f1": 0.0, "precision": 0.0, "recall": 0.0}


def test_accuracy():
    assert accuracy(["a", "b", "never seen"], ["a", "a", "b"]) == pytest.approx(1 / 3)
    assert accuracy([], []) == 0.0


def test_rows_must_correspond():
    with pytest.raises(ValueError, match="zip"):
        accuracy(["a"], [])
    with pytest.raises(ValueError, match="zip"):
        span_scores([frozenset()], [])


WORDS = [(0, 3), (4, 10), (11, 14)]


@pytest.mark.parametrize(
    ("spans", "units"),
    [
        ([], set()),
        ([(4, 10)], {(1, 1)}),
        ([(4, 14)], {(1, 2)}),
        ([(5, 6)], {(1, 1)}),  # part of a word
        ([(2, 5)], {(0, 1)}),
        ([(3, 4)], set()),  # the blank between words
        ([(14, 20)], set()),  # beyond the last
        ([(4, 6), (6, 10)], {(1, 1)}),  # two in one word: the first keeps it
        ([(6, 10), (4, 6)], {(1, 1)}),  # in whatever order
        ([(0, 5), (6, 14)], {(0, 1), (2, 2)}),
        ([(0, 3), (4, 10), (11, 14)], {(0, 0), (1, 1), (2, 2)}),
    ],
)
def test_spans_are_projected_to_the_words_that_they_touch(spans, units):
    assert to_units([LabelledSpan(a, b, "x") for a, b in spans], WORDS) == {(a, b, "x") for a, b in units}


def test_the_first_of_two_in_one_word_gives_its_label():
    assert to_units([LabelledSpan(4, 6, "x"), LabelledSpan(6, 10, "y")], WORDS) == {(1, 1, "x")}


def test_without_words_characters_are_the_units():
    assert to_units([LabelledSpan(4, 6, "x")], None) == {(4, 6, "x")}
    assert to_units([LabelledSpan(4, 6, "x")], []) == frozenset()


def test_calibration_error_of_closed_cases():
    assert expected_calibration_error([(0.75, True)] * 3 + [(0.75, False)]) == 0.0
    assert expected_calibration_error([(1.0, True), (1.0, False)]) == 0.5
    assert expected_calibration_error([(0.9, True), (0.2, False)]) == pytest.approx(0.15)
    assert expected_calibration_error([(0.2, True), (0.21, False)], bins=5) == pytest.approx(
        (0.8 + 0.21) / 2
    )  # (low, high]
    assert expected_calibration_error([]) == 0.0


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=50))
def test_calibration_error_is_at_least_the_distance_of_the_means(points):
    error = expected_calibration_error(points)
    assert abs(sum(c for c, _ in points) - sum(r for _, r in points)) / len(points) - 1e-9 <= error <= 1
    assert error == pytest.approx(expected_calibration_error(points * 2))

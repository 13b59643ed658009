"""Reliability bins, and what counts as right with which confidence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palm_serve.types import Answer, Classification, Label, Match, Span, Spans
from palm_trainer.data.example import Example, LabelledSpan
from palm_trainer.report.reliability import bins, points
from palm_trainer.report.rows import Judged

POINTS = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=50)


@given(POINTS)
def test_each_answer_is_in_one_bin(found):
    filled = bins(found)
    assert sum(one.count for one in filled) == len(found)
    assert all(one.low - 1e-9 <= one.confidence <= one.high + 1e-9 for one in filled)


def test_by_hand():
    filled = bins([(1.0, True), (0.95, False), (0.0, False), (0.5, True)])
    assert [(one.low, one.count) for one in filled] == [(0.0, 1), (0.4, 1), (0.9, 2)]


def judged(answer, gold, pair=None):
    example = Example("to new york", {"f": gold}, pair=pair, words=((0, 2), (3, 6), (7, 11)))
    return Judged("d", example, "f", None, None, answer)


@pytest.mark.parametrize(
    ("kind", "answer", "gold", "expected"),
    [
        ("classify", Classification(Label("a", 0.8), (Label("a", 0.8), Label("b", 0.2))), "a", [(0.8, True)]),
        (
            "multi_label",
            Classification(Label("a", 0.8), (), (Label("a", 0.8), Label("b", 0.6))),
            ("a",),
            [(0.8, True), (0.6, False)],
        ),
        ("match", Match(Label("1", 0.7), 0.7), "0", [(0.7, False)]),
        ("match", Match(None, 0.7), "1", []),
        ("mrc", Answer("The York", 0, 8, 0.9), (LabelledSpan(4, 8, ""), LabelledSpan(0, 1, "")), [(0.9, True)]),
        ("mrc", Answer("", 0, 0, 0.6, no_answer=True), (), [(0.6, True)]),
    ],
)
def test_points(kind, answer, gold, expected):
    assert points(kind, [judged(answer, gold, pair="The York is")]) == expected


def test_a_span_is_right_on_the_words_of_the_data():
    spans = Spans((Span("city", "new york", 3, 11, 0.9), Span("day", "to", 0, 2, 0.4)))
    found = points("sequence_label", [judged(spans, (LabelledSpan(3, 10, "city"),))])
    assert found == [(0.9, True), (0.4, False)]

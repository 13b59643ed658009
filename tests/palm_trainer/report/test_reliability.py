"""Bins of the reliability diagram, and which answers count as right with which confidence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palm_serve.types import Answer, Classification, Label, Match, Span, Spans
from palm_trainer.data.example import Example, LabelledSpan
from palm_trainer.evaluation.evaluate import collect_confidences
from palm_trainer.report.reliability import group_into_bins
from palm_trainer.tasks import Judged

POINTS = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=50)


@given(POINTS)
def test_bins_hold_each_answer_once(points):
    bins = group_into_bins(points)
    assert sum(confidence_bin.count for confidence_bin in bins) == len(points)
    for confidence_bin in bins:
        assert confidence_bin.low - 1e-9 <= confidence_bin.confidence <= confidence_bin.high + 1e-9


def test_bins_include_their_upper_bound():
    bins = group_into_bins([(1.0, True), (0.95, False), (0.0, False), (0.5, True)])
    assert [(confidence_bin.low, confidence_bin.count) for confidence_bin in bins] == [(0.0, 1), (0.4, 1), (0.9, 2)]


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
def test_confidences_of_each_task_kind(kind, answer, gold, expected):
    assert collect_confidences(kind, [judged(answer, gold, pair="The York is")]) == expected


def test_confidences_of_spans_compare_whole_words():
    spans = Spans((Span("city", "new york", 3, 11, 0.9), Span("day", "to", 0, 2, 0.4)))
    points = collect_confidences("sequence_label", [judged(spans, (LabelledSpan(3, 10, "city"),))])
    assert points == [(0.9, True), (0.4, False)]

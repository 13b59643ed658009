"""Errors in their order, and marks at the right place of the text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palm_serve.types import Answer, Classification, Label, Match, Span, Spans
from palm_trainer.data.example import Example, LabelledSpan
from palm_trainer.report.mistakes import worst
from palm_trainer.tasks import Judged
from palm_trainer.tasks.metrics import to_units
from palm_trainer.tasks.mistakes import Segment, marked


def plain(segments):
    return "".join(one.text for one in segments)


@given(st.text(max_size=60), st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=4))
def test_marks_keep_the_text(text, ranges):
    ordered = sorted((min(r), max(r)) for r in ranges if max(r) <= len(text))
    segments = marked(text, [(a, b, Segment("", "x", "right")) for a, b in ordered])
    assert plain(segments) == text
    assert sum(bool(one.status) for one in segments) == len(ordered)


def test_long_text_keeps_what_stands_near_the_marks():
    text = "a" * 5000 + "BOSTON" + "b" * 5000
    segments = marked(text, [(5000, 5006, Segment("", "city", "missed"))])
    assert [one.text for one in segments if one.status] == ["BOSTON"]
    assert len(plain(segments)) < 400
    assert plain(segments).startswith(" … aaa")
    assert plain(segments).endswith("bbb … ")
    assert len(plain(marked("c" * 9999, []))) < 300
    assert len(marked("d " * 500, [(i, i + 1, Segment("", "x", "right")) for i in range(0, 1000, 2)])) < 130


def classified(number, confidence, gold="a", predicted="b"):
    answer = Classification(Label(predicted, confidence), (Label(predicted, confidence),))
    return Judged(
        "d", Example(f"text {number}", {"f": gold}, source=f"/x/dev/a.tsv:{number}"), "f", gold, predicted, answer
    )


def test_the_surest_come_first_and_right_ones_not_at_all():
    rows = [classified(1, 0.6), classified(2, 0.9), classified(3, 0.99, predicted="a"), classified(4, 0.7)]
    found, total = worst("classify", rows, shown=2)
    assert [(one.place, one.confidence) for one in found] == [("dev/a.tsv:2", 0.9), ("dev/a.tsv:4", 0.7)]
    assert total == 3
    assert plain(found[0].context) == "text 2"
    assert (found[0].gold.labels[0].text, found[0].answered.labels[0].text) == ("a", "b")


def tagged(text, gold, spans):
    value = tuple(LabelledSpan(*one) for one in gold)
    told = tuple(Span(name, text[a:b], a, b, sure) for a, b, name, sure in spans)
    predicted = to_units([LabelledSpan(a, b, name) for a, b, name, _ in spans], None)
    return Judged("d", Example(text, {"f": value}), "f", to_units(value, None), predicted, Spans(told))


def test_spans_are_marked_on_both_sides():
    row = tagged("去北京和上海", [(1, 3, "city"), (4, 6, "city")], [(1, 3, "city", 0.9), (4, 6, "day", 0.8)])
    [found], _ = worst("sequence_label", [row])
    assert [(s.text, s.status, s.label) for s in found.gold.segments] == [
        ("去", "", ""),
        ("北京", "right", "city"),
        ("和", "", ""),
        ("上海", "missed", "city"),
    ]
    assert [(s.text, s.status, s.label) for s in found.answered.segments if s.status] == [
        ("北京", "right", "city"),
        ("上海", "wrong", "day"),
    ]
    assert found.confidence == 0.8


def test_some_that_only_miss_spans_are_shown_too():
    silent = [tagged("to bonn", [(3, 7, "city")], []) for _ in range(9)]
    loud = [tagged("to bonn", [], [(3, 7, "city", 0.5)]) for _ in range(9)]
    found, total = worst("sequence_label", silent + loud, shown=6)
    assert [one.confidence for one in found] == [0.5] * 4 + [None] * 2
    assert total == 18
    assert len(worst("sequence_label", silent, shown=6)[0]) == 6


def test_missed_class_of_several_counts_as_sure_of_the_opposite():
    answer = Classification(Label("a", 0.6), (Label("a", 0.6), Label("b", 0.05)), (Label("a", 0.6),))
    row = Judged("d", Example("x", {"f": ("a", "b")}), "f", frozenset("ab"), frozenset("a"), answer)
    [found], _ = worst("multi_label", [row])
    assert found.confidence == 0.95
    assert [(s.text, s.status) for s in found.gold.labels] == [("a", "right"), ("b", "missed")]


def test_a_rankers_mistake_holds_both_texts():
    def scored(pair, score):
        return Judged("d", Example("q", {}, pair=pair, source="s:1"), "f", "1", score, Match(None, score))

    rows = [scored("good", 0.2), scored("bad", 0.7), scored("fine", 0.9), scored("poor", 0.1)]
    [found], total = worst("match", rows)
    assert (plain(found.gold.segments), plain(found.answered.segments), total) == ("good", "bad", 1)
    assert found.confidence == pytest.approx(0.5)


def test_reading_marks_the_passage():
    passage = "x" * 900 + " Paris is old"
    example = Example("which city?", {"f": (LabelledSpan(901, 906, ""),)}, pair=passage)
    row = Judged("d", example, "f", ("Paris",), "old", Answer("old", 910, 913, 0.4))
    [found], _ = worst("mrc", [row])
    assert plain(found.context) == "which city?"
    assert [s.text for s in found.gold.segments if s.status] == ["Paris"]
    assert [s.text for s in found.answered.segments if s.status] == ["old"]
    assert len(plain(found.gold.segments)) < 300
    none = Judged("d", Example("q?", {"f": ()}, pair=passage), "f", ("",), "old", Answer("old", 910, 913, 0.4))
    assert worst("mrc", [none])[0][0].gold.labels[0].text == "no answer"

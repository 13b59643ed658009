"""Mistakes in their order, and marks at the right place of the text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palm_serve.types import Answer, Classification, Label, Match, Span, Spans
from palm_trainer.data.example import Example, LabelledSpan
from palm_trainer.report.mistakes import select_mistakes
from palm_trainer.tasks import Judged
from palm_trainer.tasks.metrics import to_units
from palm_trainer.tasks.mistakes import Segment, marked


def plain(segments):
    return "".join(segment.text for segment in segments)


@given(st.text(max_size=60), st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=4))
def test_marked_segments_contain_the_whole_text(text, ranges):
    ordered = sorted((min(r), max(r)) for r in ranges if max(r) <= len(text))
    segments = marked(text, [(a, b, Segment("", "x", "right")) for a, b in ordered])
    assert plain(segments) == text
    assert sum(bool(segment.status) for segment in segments) == len(ordered)


def test_marked_long_text_keeps_the_text_near_marks():
    text = "a" * 5000 + "BOSTON" + "b" * 5000
    segments = marked(text, [(5000, 5006, Segment("", "city", "missed"))])
    assert [segment.text for segment in segments if segment.status] == ["BOSTON"]
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


def test_mistakes_are_sorted_by_confidence():
    rows = [classified(1, 0.6), classified(2, 0.9), classified(3, 0.99, predicted="a"), classified(4, 0.7)]
    mistakes, total = select_mistakes("classify", rows, limit=2)
    assert [(mistake.place, mistake.confidence) for mistake in mistakes] == [("dev/a.tsv:2", 0.9), ("dev/a.tsv:4", 0.7)]
    assert total == 3
    assert plain(mistakes[0].context) == "text 2"
    assert (mistakes[0].gold.labels[0].text, mistakes[0].answered.labels[0].text) == ("a", "b")


def tagged(text, gold, spans):
    value = tuple(LabelledSpan(*span) for span in gold)
    answer_spans = tuple(Span(name, text[a:b], a, b, sure) for a, b, name, sure in spans)
    predicted = to_units([LabelledSpan(a, b, name) for a, b, name, _ in spans], None)
    return Judged("d", Example(text, {"f": value}), "f", to_units(value, None), predicted, Spans(answer_spans))


def test_mistake_marks_gold_and_answered_spans():
    row = tagged("去北京和上海", [(1, 3, "city"), (4, 6, "city")], [(1, 3, "city", 0.9), (4, 6, "day", 0.8)])
    [mistake], _ = select_mistakes("sequence_label", [row])
    assert [(s.text, s.status, s.label) for s in mistake.gold.segments] == [
        ("去", "", ""),
        ("北京", "right", "city"),
        ("和", "", ""),
        ("上海", "missed", "city"),
    ]
    assert [(s.text, s.status, s.label) for s in mistake.answered.segments if s.status] == [
        ("北京", "right", "city"),
        ("上海", "wrong", "day"),
    ]
    assert mistake.confidence == 0.8


def test_mistakes_include_some_without_confidence():
    silent = [tagged("to bonn", [(3, 7, "city")], []) for _ in range(9)]
    loud = [tagged("to bonn", [], [(3, 7, "city", 0.5)]) for _ in range(9)]
    mistakes, total = select_mistakes("sequence_label", silent + loud, limit=6)
    assert [mistake.confidence for mistake in mistakes] == [0.5] * 4 + [None] * 2
    assert total == 18
    assert len(select_mistakes("sequence_label", silent, limit=6)[0]) == 6


def test_confidence_of_a_missed_label_is_of_its_absence():
    answer = Classification(Label("a", 0.6), (Label("a", 0.6), Label("b", 0.05)), (Label("a", 0.6),))
    row = Judged("d", Example("x", {"f": ("a", "b")}), "f", frozenset("ab"), frozenset("a"), answer)
    [mistake], _ = select_mistakes("multi_label", [row])
    assert mistake.confidence == 0.95
    assert [(s.text, s.status) for s in mistake.gold.labels] == [("a", "right"), ("b", "missed")]


def test_mistake_of_a_ranker_has_both_texts():
    def scored(pair, score):
        return Judged("d", Example("q", {}, pair=pair, source="s:1"), "f", "1", score, Match(None, score))

    rows = [scored("good", 0.2), scored("bad", 0.7), scored("fine", 0.9), scored("poor", 0.1)]
    [mistake], total = select_mistakes("match", rows)
    assert (plain(mistake.gold.segments), plain(mistake.answered.segments), total) == ("good", "bad", 1)
    assert mistake.confidence == pytest.approx(0.5)


def test_mistake_of_mrc_marks_the_passage():
    passage = "x" * 900 + " Paris is old"
    example = Example("which city?", {"f": (LabelledSpan(901, 906, ""),)}, pair=passage)
    row = Judged("d", example, "f", ("Paris",), "old", Answer("old", 910, 913, 0.4))
    [mistake], _ = select_mistakes("mrc", [row])
    assert plain(mistake.context) == "which city?"
    assert [s.text for s in mistake.gold.segments if s.status] == ["Paris"]
    assert [s.text for s in mistake.answered.segments if s.status] == ["old"]
    assert len(plain(mistake.gold.segments)) < 300
    none = Judged("d", Example("q?", {"f": ()}, pair=passage), "f", ("",), "old", Answer("old", 910, 913, 0.4))
    assert select_mistakes("mrc", [none])[0][0].gold.labels[0].text == "no answer"

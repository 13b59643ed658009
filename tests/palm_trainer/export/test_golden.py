"""Golden examples: varied, certain, few."""

from palm_serve.bundle.golden import GoldenExample
from palm_serve.bundle.manifest import TaskInfo
from palm_serve.types import Answer, Classification, Label, Match, Span, Spans, TaskAnswer
from palm_trainer.data.example import Example
from palm_trainer.export.golden import LEAST, MOST, Answered, choose_golden

TASKS = {
    "intent": TaskInfo(kind="classify", outputs=("intent.logits",)),
    "slots": TaskInfo(kind="sequence_label", outputs=("slots.logits",)),
    "rank": TaskInfo(kind="match", outputs=("rank.logits",)),
    "qa": TaskInfo(kind="mrc", outputs=("qa.start_logits", "qa.end_logits")),
}


def choose(sets: list[list[Answered]]) -> list[GoldenExample]:
    return choose_golden(sets, TASKS)


def answered(
    i: int, label: str = "a", confidence: float = 0.9, span: str | None = None, span_confidence: float = 0.9
) -> Answered:
    text = f"text {i}"
    top = Label(label, confidence)
    spans = (Span(span, text[:4], 0, 4, span_confidence),) if span else ()
    answers: dict[str, TaskAnswer] = {"intent": Classification(top, (top,)), "slots": Spans(spans)}
    return Example(text), answers


def test_every_label_and_span_name_is_shown() -> None:
    pool = [answered(i) for i in range(200)] + [answered(200 + i, label=f"rare{i}", span=f"slot{i}") for i in range(10)]
    chosen = choose([pool])
    assert {e.answers["intent"].label for e in chosen} == {"a", *(f"rare{i}" for i in range(10))}
    assert {s.name for e in chosen for s in e.answers["slots"].spans or ()} == {f"slot{i}" for i in range(10)}
    assert len(chosen) == LEAST


def test_no_more_than_fifty() -> None:
    assert len(choose([[answered(i, label=f"class {i}") for i in range(300)]])) == MOST


def test_few_examples_are_all_taken() -> None:
    assert len(choose([[answered(i) for i in range(3)]])) == 3
    assert choose([[]]) == []


def test_uncertain_answers_are_left_out() -> None:
    chosen = choose([[answered(0, confidence=0.59), answered(1, span="city", span_confidence=0.5), answered(2)]])
    assert [(e.text, sorted(e.answers)) for e in chosen] == [
        ("text 0", ["slots"]),
        ("text 1", ["intent"]),
        ("text 2", ["intent", "slots"]),
    ]


def test_surest_where_nothing_is_certain() -> None:
    pool = [answered(i, confidence=0.1 + i / 100, span="city", span_confidence=0.1 + i / 100) for i in range(30)]
    assert [example.text for example in choose([pool])] == [f"text {i}" for i in range(29, 24, -1)]


def test_small_data_set_is_not_crowded_out() -> None:
    large = [answered(i, label=f"class {i}") for i in range(300)]
    small = [answered(1000 + i, label=f"other {i}") for i in range(5)]
    labels = {example.answers["intent"].label for example in choose([large, small])}
    assert {f"other {i}" for i in range(5)} <= labels


def test_blank_long_and_repeated_texts_are_left_out() -> None:
    answers = answered(0)[1]
    pool = [(Example(text), answers) for text in (" ", "x" * 501, "same", "same")]
    assert [example.text for example in choose([pool])] == ["same"]


def test_every_kind_of_answer_has_a_golden_form() -> None:
    duplicate = Match(Label("yes", 0.9), 0.9)
    found = Answer("passage", 2, 9, 0.8)
    pool: list[Answered] = [
        (Example("a", pair="b"), {"rank": Match(None, 0.12345)}),
        (Example("c", pair="d"), {"rank": duplicate}),
        (Example("e", pair="a passage"), {"qa": found}),
        (Example("f", pair="a passage"), {"qa": Answer("", 0, 0, 0.7, no_answer=True)}),
    ]
    told = [example.model_dump(exclude_unset=True)["answers"] for example in choose([pool])]
    assert told == [
        {"rank": {"score": 0.1235}},
        {"rank": {"label": "yes"}},
        {"qa": {"spans": ({"name": "", "start": 2, "end": 9},)}},
        {"qa": {"spans": ()}},
    ]

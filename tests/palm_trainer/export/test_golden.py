"""Golden examples are varied, certain and few."""

from palm_serve.bundle.golden import GoldenExample
from palm_serve.bundle.manifest import TaskInfo
from palm_serve.types import Answer, Classification, Label, Match, Span, Spans, TaskAnswer
from palm_trainer.data.example import Example
from palm_trainer.export.golden import MAX_EXAMPLES, MIN_EXAMPLES, AnsweredExample, choose_golden

TASKS = {
    "intent": TaskInfo(kind="classify", outputs=("intent.logits",)),
    "slots": TaskInfo(kind="sequence_label", outputs=("slots.logits",)),
    "rank": TaskInfo(kind="match", outputs=("rank.logits",)),
    "qa": TaskInfo(kind="mrc", outputs=("qa.start_logits", "qa.end_logits")),
}


def choose(sets: list[list[AnsweredExample]]) -> list[GoldenExample]:
    return choose_golden(sets, TASKS)


def answered(
    i: int, label: str = "a", confidence: float = 0.9, span: str | None = None, span_confidence: float = 0.9
) -> AnsweredExample:
    text = f"text {i}"
    top = Label(label, confidence)
    spans = (Span(span, text[:4], 0, 4, span_confidence),) if span else ()
    answers: dict[str, TaskAnswer] = {"intent": Classification(top, (top,)), "slots": Spans(spans)}
    return Example(text), answers


def test_golden_examples_cover_all_labels_and_spans() -> None:
    pool = [answered(i) for i in range(200)] + [answered(200 + i, label=f"rare{i}", span=f"slot{i}") for i in range(10)]
    golden = choose([pool])
    assert {example.answers["intent"].label for example in golden} == {"a", *(f"rare{i}" for i in range(10))}
    span_names = set()
    for example in golden:
        span_names.update(span.name for span in example.answers["slots"].spans or ())
    assert span_names == {f"slot{i}" for i in range(10)}
    assert len(golden) == MIN_EXAMPLES


def test_golden_examples_are_at_most_fifty() -> None:
    assert len(choose([[answered(i, label=f"class {i}") for i in range(300)]])) == MAX_EXAMPLES


def test_golden_examples_of_a_small_set_are_all_of_it() -> None:
    assert len(choose([[answered(i) for i in range(3)]])) == 3
    assert choose([[]]) == []


def test_golden_examples_leave_out_uncertain_answers() -> None:
    golden = choose([[answered(0, confidence=0.59), answered(1, span="city", span_confidence=0.5), answered(2)]])
    assert [(example.text, sorted(example.answers)) for example in golden] == [
        ("text 0", ["slots"]),
        ("text 1", ["intent"]),
        ("text 2", ["intent", "slots"]),
    ]


def test_golden_examples_without_confidence_are_most_certain() -> None:
    pool = [answered(i, confidence=0.1 + i / 100, span="city", span_confidence=0.1 + i / 100) for i in range(30)]
    assert [example.text for example in choose([pool])] == [f"text {i}" for i in range(29, 24, -1)]


def test_golden_examples_include_a_small_data_set() -> None:
    large = [answered(i, label=f"class {i}") for i in range(300)]
    small = [answered(1000 + i, label=f"other {i}") for i in range(5)]
    labels = {example.answers["intent"].label for example in choose([large, small])}
    assert {f"other {i}" for i in range(5)} <= labels


def test_golden_examples_leave_out_blank_long_repeated_texts() -> None:
    answers = answered(0)[1]
    pool = [(Example(text), answers) for text in (" ", "x" * 501, "same", "same")]
    assert [example.text for example in choose([pool])] == ["same"]


def test_golden_examples_of_long_texts_are_the_shortest() -> None:
    answers = answered(0)[1]
    pool = [(Example("x" * (600 + i)), answers) for i in range(MAX_EXAMPLES + 10)]
    golden = choose([pool])
    assert len(golden) == MIN_EXAMPLES
    assert max(len(example.text) for example in golden) < 600 + MAX_EXAMPLES


def test_golden_example_of_every_answer_type() -> None:
    duplicate = Match(Label("yes", 0.9), 0.9)
    answer = Answer("passage", 2, 9, 0.8)
    pool: list[AnsweredExample] = [
        (Example("a", pair="b"), {"rank": Match(None, 0.12345)}),
        (Example("c", pair="d"), {"rank": duplicate}),
        (Example("e", pair="a passage"), {"qa": answer}),
        (Example("f", pair="a passage"), {"qa": Answer("", 0, 0, 0.7, no_answer=True)}),
    ]
    answers = [example.model_dump(exclude_unset=True)["answers"] for example in choose([pool])]
    assert answers == [
        {"rank": {"score": 0.1235}},
        {"rank": {"label": "yes"}},
        {"qa": {"spans": ({"name": "", "start": 2, "end": 9},)}},
        {"qa": {"spans": ()}},
    ]

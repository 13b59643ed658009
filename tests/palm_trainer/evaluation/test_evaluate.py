"""Answers do not depend on who else is in the batch, and every gold label counts."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palm_serve.types import Classification, Label, Span, Spans
from palm_trainer.data.example import Example, LabelledSpan
from palm_trainer.evaluation.evaluate import EvaluationSet, comparable, evaluate, score_of
from palm_trainer.evaluation.predictor import Predictor
from palm_trainer.model.checkpoint import load_trained

TEXTS = st.lists(
    st.lists(
        st.sampled_from(["flights", "from", "boston", "st.", "louis", "monday", "zzz", "北京", "!"]), max_size=9
    ).map(" ".join),
    min_size=1,
    max_size=6,
)


@pytest.fixture(scope="module")
def trained(finished_run):
    return load_trained(finished_run)


@settings(max_examples=15)
@given(TEXTS)
def test_an_answer_is_the_same_alone_and_in_a_batch(trained, texts):
    examples = [Example(text) for text in texts]
    together = Predictor(trained, batch_size=4).answers(examples)
    for example, beside in zip(examples, together, strict=True):
        (alone,) = Predictor(trained).answers([example])
        for task in ("intent", "mood"):
            assert [label.name for label in alone[task].ranking] == [label.name for label in beside[task].ranking]
            assert alone[task].label.confidence == pytest.approx(beside[task].label.confidence, abs=1e-5)
        assert [(s.name, s.start, s.end) for s in alone["slots"].spans] == [
            (s.name, s.start, s.end) for s in beside["slots"].spans
        ]
        for one, other in zip(alone["slots"].spans, beside["slots"].spans, strict=True):
            assert one.confidence == pytest.approx(other.confidence, abs=1e-5)


def test_only_the_tasks_asked_for(trained):
    (answers,) = Predictor(trained).answers([Example("to boston")], ("mood",))
    assert set(answers) == {"mood"}
    assert Predictor(trained).answers([]) == []


class Fixed:
    """Answers the same to everything."""

    def __init__(self, **answers):
        self._answers = answers

    def answers(self, examples, tasks=None):
        return [self._answers for _ in examples]


def intent(name):
    return Classification(Label(name, 1.0), (Label(name, 1.0),))


def slots(*spans):
    return Spans(tuple(Span(name, "", start, end, 1.0) for start, end, name in spans))


KINDS = {"intent": "classify", "slots": "sequence_label"}
FIELDS = {"intent": "intent", "slots": "slots"}


def test_metrics_count_what_is_labelled():
    city = (LabelledSpan(3, 9, "city"),)
    examples = [
        Example("to boston", {"intent": "flight", "slots": city}, words=((0, 2), (3, 9))),
        Example("to boston", {"intent": "never seen", "slots": city}),
        Example("to boston", {"slots": (LabelledSpan(3, 9, "planet"),)}),
        Example("to boston", {"intent": "flight"}),
    ]
    model = Fixed(intent=intent("flight"), slots=slots((3, 9, "city")))
    metrics = evaluate(model, KINDS, [EvaluationSet("d", examples, FIELDS)])
    assert metrics["intent"] == {"accuracy": pytest.approx(2 / 3)}
    spans = {"f1": 2 / 3, "precision": 2 / 3, "recall": 2 / 3}
    assert metrics["slots"] == pytest.approx({**spans, "token_accuracy": 12 / 18})  # 2 words, then 8 characters twice
    assert metrics["exact_match"] == pytest.approx(2 / 4)


def test_tasks_of_several_data_sets_are_scored_together():
    model = Fixed(mood=intent("good"))
    sets = [
        EvaluationSet(name, [Example("t", {"mood": gold})], {"mood": "mood"})
        for name, gold in (("a", "good"), ("b", "bad"))
    ]
    metrics = evaluate(model, {"mood": "classify"}, sets)
    assert metrics["mood"] == {"accuracy": 0.5}
    assert metrics["by_data_set"] == {"a": {"mood": {"accuracy": 1.0}}, "b": {"mood": {"accuracy": 0.0}}}


def test_a_task_without_gold_labels_has_no_metrics():
    model = Fixed(intent=intent("x"), slots=slots())
    assert evaluate(model, KINDS, [EvaluationSet("d", [Example("t", {"intent": "x"})], FIELDS)]) == {
        "intent": {"accuracy": 1.0},
        "exact_match": 1.0,
    }


def test_a_comma_in_a_span_is_forgiven_on_words_only():
    """Word-tagged data is scored on its words: `boston,` and `boston` are the same word there, and not where spans were given in characters."""
    gold = (LabelledSpan(3, 10, "city"),)
    answer = slots((3, 9, "city"))
    assert (
        len(
            set(
                comparable(
                    "sequence_label", Example("to boston,", {"slots": gold}, words=((0, 2), (3, 10))), "slots", answer
                )
            )
        )
        == 1
    )
    assert len(set(comparable("sequence_label", Example("to boston,", {"slots": gold}), "slots", answer))) == 2


def test_score_of():
    metrics = {"intent": {"accuracy": 0.5}, "slots": {"f1": 0.7, "recall": 0.9}, "exact_match": 0.3}
    found = [score_of(metrics, select, KINDS) for select in ("average", "exact_match", "slots.recall", "intent.f1")]
    assert found == pytest.approx([0.6, 0.3, 0.9, 0.0])
    assert score_of({}, "average", KINDS) == 0.0

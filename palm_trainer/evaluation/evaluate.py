"""A model and examples -> answers -> metrics. Tokenization, padding and decoding are the server's own, so what is measured is what is served."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from palm_serve.types import Answer, Classification, Match, Spans, TaskAnswer
from palm_trainer.data.example import Example, LabelledSpan
from palm_trainer.data.formats.tags import tags_from_spans
from palm_trainer.evaluation.metrics import (
    accuracy,
    answer_tokens,
    expected_calibration_error,
    label_scores,
    pairwise_accuracy,
    reading_scores,
    set_scores,
    span_scores,
    to_units,
    token_accuracy,
)

PRIMARY = {"classify": "accuracy", "multi_label": "accuracy", "sequence_label": "f1", "match": "accuracy", "mrc": "f1"}
"""The metric that stands for a task of each kind."""


Metrics = dict[str, Any]
"""`{"intent": {"accuracy": ...}, "slots": {"f1": ..., ...}, "exact_match": ...}`."""


class Answering(Protocol):
    """What can be evaluated: the trained model, or an exported graph's recorded answers."""

    def answers(self, examples: Sequence[Example], tasks: Sequence[str] | None = None) -> list[dict[str, TaskAnswer]]:
        """Answers by task name, one dict an example, in the order given."""
        ...


@dataclass(frozen=True)
class EvaluationSet:
    """Examples of one data set's split, and which field each of its tasks is scored on.

    For a ranker these are `reader.match.with_negatives`.
    """

    data: str
    examples: Sequence[Example]
    fields: Mapping[str, str]
    """Task -> field of the examples."""
    positive: Mapping[str, str] = field(default_factory=dict)
    """Task -> the label that its F1 is of (match)."""


@dataclass
class Scored:
    """Gold and predicted labels of one task, collected over data sets."""

    kind: str
    positive: str = ""
    gold: list[Any] = field(default_factory=list)
    predicted: list[Any] = field(default_factory=list)
    tags: list[tuple[list[str], list[str]]] = field(default_factory=list)
    """sequence_label: gold and predicted tags of each example's tokens."""

    def metrics(self) -> dict[str, float]:
        """The task's metrics."""
        match self.kind:
            case "sequence_label":
                right = token_accuracy([gold for gold, _ in self.tags], [found for _, found in self.tags])
                return {**span_scores(self.gold, self.predicted), "token_accuracy": right}
            case "multi_label":
                return set_scores(self.gold, self.predicted)
            case "match" if self.positive:
                return label_scores(self.gold, self.predicted, self.positive)
            case "match":
                return {"accuracy": pairwise_accuracy(self.predicted)}
            case "mrc":
                return reading_scores(self.gold, self.predicted)
        return {"accuracy": accuracy(self.gold, self.predicted)}


def evaluate(predictor: Answering, tasks: Mapping[str, str], sets: Sequence[EvaluationSet]) -> Metrics:
    """Metrics of every task that has labels in the sets.

    Args:
        predictor: the model.
        tasks: kind of each task.
        sets: what to score; `exact_match` is that of the first set with two tasks or more.
    """
    scored = {task: Scored(kind) for task, kind in tasks.items()}
    exact: float | None = None
    for one in sets:
        correct = []
        for example, answers in zip(one.examples, predictor.answers(one.examples, tuple(one.fields)), strict=True):
            right = True
            for task, name in one.fields.items():
                if name not in example.fields or task not in answers:
                    continue
                gold, predicted = comparable(tasks[task], example, name, answers[task])
                scored[task].positive = one.positive.get(task, "")
                scored[task].gold.append(gold)
                scored[task].predicted.append(predicted)
                if isinstance(answer := answers[task], Spans):
                    scored[task].tags.append(_tags(example, name, answer))
                right = right and gold == predicted
            correct.append(right)
        if exact is None and len(one.fields) > 1:
            exact = sum(correct) / len(correct)
    metrics: Metrics = {task: score.metrics() for task, score in scored.items() if score.gold}
    if exact is not None:
        metrics["exact_match"] = exact
    return metrics


def comparable(kind: str, example: Example, name: str, answer: TaskAnswer) -> tuple[object, object]:
    """Gold label and answer in one form: class names, sets of them, spans over the data's own units, or texts (mrc: a tuple of right ones)."""
    value = example.fields[name]
    spans = [item for item in value if isinstance(item, LabelledSpan)]
    match answer:
        case Classification() if kind == "multi_label":
            wanted = {value} if isinstance(value, str) else {item for item in value if isinstance(item, str)}
            return frozenset(wanted), frozenset(label.name for label in answer.labels)
        case Classification():
            return value, answer.label.name
        case Match():
            return value, answer.label.name if answer.label else answer.score
        case Answer():
            passage = example.pair or ""
            return tuple(passage[span.start : span.end] for span in spans) or ("",), answer.text
        case Spans():
            predicted = [LabelledSpan(span.start, span.end, span.name) for span in answer.spans]
            return to_units(spans, example.words), to_units(predicted, example.words)


def outcomes(kind: str, example: Example, name: str, answer: TaskAnswer) -> list[tuple[float, bool]]:
    """Each confidence that an answer is given with, and whether what it belongs to is right.

    That of a class, of each class that was said to apply, of each whole span, or of a passage's answer (right when equal to a right one after SQuAD's
    normalization). A ranker has none.
    """
    gold, told = comparable(kind, example, name, answer)
    match answer:
        case Classification(labels=labels) if kind == "multi_label":
            assert isinstance(gold, frozenset)
            return [(label.confidence, label.name in gold) for label in labels]
        case Classification(label=label):
            return [(label.confidence, gold == told)]
        case Match(label=best):
            return [(best.confidence, gold == told)] if best else []
        case Answer(text=text):
            assert isinstance(gold, tuple)
            return [(answer.confidence, answer_tokens(text) in [answer_tokens(right) for right in gold])]
        case Spans(spans=spans):
            assert isinstance(gold, frozenset)
            units = [to_units([LabelledSpan(span.start, span.end, span.name)], example.words) for span in spans]
            return [(span.confidence, bool(unit) and unit <= gold) for span, unit in zip(spans, units, strict=True)]


def calibration_errors(
    predictor: Answering, tasks: Mapping[str, str], sets: Sequence[EvaluationSet]
) -> dict[str, dict[str, float]]:
    """`{"intent": {"ece": 0.01}}`: expected calibration error of every task whose answers come with confidences. Arguments as for `evaluate`."""
    found: dict[str, list[tuple[float, bool]]] = {}
    for one in sets:
        for example, answers in zip(one.examples, predictor.answers(one.examples, tuple(one.fields)), strict=True):
            for task, name in one.fields.items():
                if name in example.fields and task in answers:
                    found.setdefault(task, []).extend(outcomes(tasks[task], example, name, answers[task]))
    return {task: {"ece": expected_calibration_error(points)} for task, points in found.items() if points}


def _tags(example: Example, name: str, answer: Spans) -> tuple[list[str], list[str]]:
    """Gold and predicted tags of the data's own words; of characters, where it has none."""
    words = example.words
    if words is None:
        words = tuple((i, i + 1) for i, character in enumerate(example.text) if not character.isspace())
    gold = [item for item in example.fields[name] if isinstance(item, LabelledSpan)]
    found = [LabelledSpan(span.start, span.end, span.name) for span in answer.spans]
    return tags_from_spans(gold, words), tags_from_spans(found, words)


def score_of(
    metrics: Metrics, select: str, kinds: Mapping[str, str], baselines: Mapping[str, float] | None = None
) -> float:
    """The number that chooses the best checkpoint; more is better.

    Args:
        metrics: of one evaluation.
        select: `average` of the tasks' primary metrics, `exact_match`, or `TASK.METRIC`. Where masked pieces are all that is guessed, the average
            is one over the perplexity.
        kinds: kind of each task that is evaluated.
        baselines: what the primary metrics are divided by in the average.
    """
    if select == "average":
        values = [
            metrics[task][PRIMARY[kind]] / (baselines or {}).get(task, 1.0)
            for task, kind in kinds.items()
            if task in metrics
        ]
        values = values or [1.0 / own["perplexity"] for own in metrics.values() if isinstance(own, dict)]
        return sum(values) / len(values) if values else 0.0
    if select == "exact_match":
        return float(metrics.get("exact_match", 0.0))
    task, _, metric = select.partition(".")
    found = float(metrics.get(task, {}).get(metric, 0.0))
    return 1.0 / found if metric == "perplexity" and found else found

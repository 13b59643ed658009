"""A model and examples -> answers -> metrics. Tokenization, padding and decoding are the server's own, so what is measured is what is served."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Protocol

from palm_serve.types import TaskAnswer
from palm_trainer.data.example import Example
from palm_trainer.tasks import Judged, task_kind
from palm_trainer.tasks.metrics import expected_calibration_error

Metrics = dict[str, Any]
"""`{"intent": {"accuracy": ...}, "slots": {"f1": ..., ...}, "exact_match": ...}`, each over all data sets.

Where data sets share tasks, also `{"by_data_set": {"travel": {"intent": {"accuracy": ...}, "exact_match": ...}, ...}}`.
"""

EXACT_MATCH, BY_DATA_SET = "exact_match", "by_data_set"
"""Keys of metrics that are not tasks."""


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


def evaluate(predictor: Answering, tasks: Mapping[str, str], sets: Sequence[EvaluationSet]) -> Metrics:
    """Return the metrics of every task that has labels in the sets.

    `exact_match` is the share of the rows of all sets with two tasks or more on which every labelled task is right.
    What several data sets have in common is also scored on each of them, below `by_data_set`.

    Args:
        predictor: the model.
        tasks: kind of each task.
        sets: what to score.
    """
    rows_by_set = []
    for evaluation_set in sets:
        rows_by_set.append(list(_judged_examples(predictor, tasks, evaluation_set)))
    metrics = _score_sets(tasks, sets, rows_by_set)
    by_data_set = {}
    if len(sets) > 1:
        for evaluation_set, rows in zip(sets, rows_by_set, strict=True):
            by_data_set[evaluation_set.data] = _score_sets(tasks, [evaluation_set], [rows])
    return add_data_sets(metrics, by_data_set)


def add_data_sets(metrics: Metrics, by_data_set: Mapping[str, Metrics]) -> Metrics:
    """Return metrics with those scores of single data sets that several data sets have.

    Args:
        metrics: over all data sets. Scores of data sets that it holds are kept.
        by_data_set: metrics of each data set alone.
    """
    data_sets_of = Counter(chain.from_iterable(by_data_set.values()))
    scores: dict[str, Metrics] = {}
    for data, earlier_scores in metrics.get(BY_DATA_SET, {}).items():
        scores[data] = dict(earlier_scores)
    for data, data_metrics in by_data_set.items():
        for name, value in data_metrics.items():
            if data_sets_of[name] > 1:
                scores.setdefault(data, {})[name] = value
    return {**metrics, BY_DATA_SET: scores} if scores else metrics


def flatten(metrics: Metrics) -> dict[str, float]:
    """Return metrics by the name that people read.

    Examples: `intent accuracy`, `exact_match`, and of the data set travel alone `intent accuracy (travel)`.
    """
    flat: dict[str, float] = {}
    for name, value in metrics.items():
        if name == BY_DATA_SET:
            continue
        if isinstance(value, Mapping):
            for metric, number in value.items():
                if isinstance(number, int | float):
                    flat[f"{name} {metric}"] = float(number)
        elif isinstance(value, int | float):
            flat[name] = float(value)
    for data, data_metrics in metrics.get(BY_DATA_SET, {}).items():
        for name, number in flatten(data_metrics).items():
            flat[f"{name} ({data})"] = number
    return flat


def is_perplexity(name: str) -> bool:
    """Return True for the name of a perplexity in `flatten`, which is no share."""
    return name.partition(" (")[0].endswith("perplexity")


def _score_sets(
    tasks: Mapping[str, str], sets: Sequence[EvaluationSet], rows_by_set: Sequence[Sequence[Mapping[str, Judged]]]
) -> Metrics:
    """Return the metrics over all rows of some sets."""
    rows_by_task: dict[str, list[Judged]] = {}
    positive: dict[str, str] = {}
    correct = []
    for evaluation_set, set_rows in zip(sets, rows_by_set, strict=True):
        for rows in set_rows:
            for task, row in rows.items():
                rows_by_task.setdefault(task, []).append(row)
                positive[task] = evaluation_set.positive.get(task, "")
            if rows and len(evaluation_set.fields) > 1:
                correct.append(all(row.gold == row.predicted for row in rows.values()))
    metrics: Metrics = {}
    for task, kind in tasks.items():
        if task in rows_by_task:
            metrics[task] = task_kind(kind).metrics(rows_by_task[task], positive[task])
    if correct:
        metrics[EXACT_MATCH] = sum(correct) / len(correct)
    return metrics


def judge(predictor: Answering, kinds: Mapping[str, str], sets: Sequence[EvaluationSet]) -> dict[str, list[Judged]]:
    """Return the judged examples of each task that has labels in the sets, in the order of the data.

    Args:
        predictor: the model.
        kinds: kind of each task.
        sets: labelled examples.
    """
    rows_by_task: dict[str, list[Judged]] = {}
    for evaluation_set in sets:
        for rows in _judged_examples(predictor, kinds, evaluation_set):
            for task, row in rows.items():
                rows_by_task.setdefault(task, []).append(row)
    return rows_by_task


def _judged_examples(
    predictor: Answering, kinds: Mapping[str, str], evaluation_set: EvaluationSet
) -> Iterator[dict[str, Judged]]:
    """Yield, for each example of a set, its judged tasks: those that it has a label and an answer of."""
    examples = evaluation_set.examples
    answers_of_all = predictor.answers(examples, tuple(evaluation_set.fields))
    for example, answers in zip(examples, answers_of_all, strict=True):
        rows = {}
        for task, name in evaluation_set.fields.items():
            if name in example.fields and task in answers:
                gold, predicted = comparable(kinds[task], example, name, answers[task])
                rows[task] = Judged(evaluation_set.data, example, name, gold, predicted, answers[task])
        yield rows


def comparable(kind: str, example: Example, field: str, answer: TaskAnswer) -> tuple[Any, Any]:
    """Return gold label and answer in one form: class names, sets of them, spans over the data's own units, or texts.

    Args:
        kind: of the task.
        example: with its gold label.
        field: that holds the label.
        answer: what the model answered.
    """
    return task_kind(kind).compare(example, field, answer)


def calibration_errors(
    predictor: Answering, tasks: Mapping[str, str], sets: Sequence[EvaluationSet]
) -> dict[str, dict[str, float]]:
    """Return the expected calibration error of every task whose answers have confidences: `{"intent": {"ece": 0.01}}`.

    Args:
        predictor: the model.
        tasks: kind of each task.
        sets: labelled examples.
    """
    errors = {}
    for task, rows in judge(predictor, tasks, sets).items():
        points = collect_confidences(tasks[task], rows)
        if points:
            errors[task] = {"ece": expected_calibration_error(points)}
    return errors


def collect_confidences(kind: str, rows: Iterable[Judged]) -> list[tuple[float, bool]]:
    """Return each confidence of some answers, and whether the part that it belongs to is right."""
    points = []
    for row in rows:
        points += task_kind(kind).outcomes(row.example, row.field, row.answer)
    return points


def score_of(
    metrics: Metrics, select: str, kinds: Mapping[str, str], baselines: Mapping[str, float] | None = None
) -> float:
    """Return the number that chooses the best checkpoint; more is better.

    Args:
        metrics: of one evaluation.
        select: `average` of the tasks' primary metrics, `exact_match`, or `TASK.METRIC`. Where masked pieces are all that is guessed, the average
            is one over the perplexity.
        kinds: kind of each task that is evaluated.
        baselines: what the primary metrics are divided by in the average.
    """
    if select == "average":
        values = []
        for task, kind in kinds.items():
            if task in metrics:
                metric = metrics[task][task_kind(kind).primary_metric]
                values.append(metric / (baselines or {}).get(task, 1.0))
        if not values:
            for name, task_metrics in metrics.items():
                if isinstance(task_metrics, dict) and name != BY_DATA_SET:
                    values.append(1.0 / task_metrics["perplexity"])
        return sum(values) / len(values) if values else 0.0
    if select == EXACT_MATCH:
        return float(metrics.get(EXACT_MATCH, 0.0))
    task, _, metric = select.partition(".")
    value = float(metrics.get(task, {}).get(metric, 0.0))
    return 1.0 / value if metric == "perplexity" and value else value

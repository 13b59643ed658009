"""Task kind: any number of classes of a text."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from palm_serve.bundle.manifest import TaskInfo
from palm_serve.types import Classification, FloatArray, TaskAnswer
from palm_trainer.config.schema import MultiLabelTask, TaskConfig
from palm_trainer.data.example import Example, FieldValue
from palm_trainer.data.targets.multi_label import MultiLabelTarget
from palm_trainer.tasks import scores
from palm_trainer.tasks.base import Judged, LearnContext, TaskKind, numbers, text_segments
from palm_trainer.tasks.logit_calibration import SigmoidCalibration
from palm_trainer.tasks.metrics import set_scores
from palm_trainer.tasks.mistakes import MistakeSide, Segment
from palm_trainer.tasks.report_tables import ConfusionTable, LabelTable, ReportTable


class MultiLabelKind(TaskKind):
    """Any number of classes, by a sigmoid for each. The limit from which a class applies is chosen on dev."""

    name = "multi_label"
    section = MultiLabelTask
    learns_several_classes = True
    needs_full_ranking = True
    wanted_value = "classes"
    answer_noun = "labels that were said to apply"

    def fits(self, value: FieldValue) -> bool:
        """Return True for one class or several."""
        return isinstance(value, str) or all(isinstance(item, str) for item in value)

    def fitting_fields(self, fields: Mapping[str, FieldValue], settings: TaskConfig) -> list[str]:
        """Return the fields that hold several classes; where there is none, those that hold one."""
        fitting = super().fitting_fields(fields, settings)
        return [name for name in fitting if isinstance(fields[name], tuple)] or fitting

    def learn(
        self, task: str, settings: TaskConfig, examples: Sequence[Example], context: LearnContext
    ) -> MultiLabelTarget:
        """Build the target with the classes of the examples.

        Args:
            task: task name.
            settings: `threshold` is kept if it is set.
            examples: of all data sets of the task; their classes are learnt.
            context: not used.
        """
        assert isinstance(settings, MultiLabelTask)
        return MultiLabelTarget.learn(
            task, settings.field or "", examples, role=settings.role, threshold=settings.threshold
        )

    def compare(self, example: Example, field: str, answer: TaskAnswer) -> tuple[Any, Any]:
        """Return the sets of gold and answered class names.

        Args:
            example: with the gold label.
            field: that holds it.
            answer: of the model.
        """
        assert isinstance(answer, Classification)
        return gold_classes(example, field), frozenset(label.name for label in answer.labels)

    def outcomes(self, example: Example, field: str, answer: TaskAnswer) -> list[tuple[float, bool]]:
        """Return the confidence of each answered class, and whether it applies."""
        assert isinstance(answer, Classification)
        gold = gold_classes(example, field)
        return [(label.confidence, label.name in gold) for label in answer.labels]

    def metrics(self, rows: Sequence[Judged], positive: str) -> dict[str, float]:
        """Return the share of sets that are exactly right, and micro-averaged F1."""
        return set_scores([row.gold for row in rows], [row.predicted for row in rows])

    def logit_calibration(self, info: TaskInfo) -> SigmoidCalibration:
        """Return the calibration of sigmoids."""
        return SigmoidCalibration()

    def has_open_limit(self, settings: TaskConfig | None) -> bool:
        """Return True unless the configuration gives the threshold."""
        return settings is None or (isinstance(settings, MultiLabelTask) and settings.threshold is None)

    def limit_rows(self, info: TaskInfo, rows: Sequence[tuple[Example, str]]) -> list[tuple[Example, str]]:
        """Return all rows."""
        return list(rows)

    def best_limit(self, info: TaskInfo, rows: Sequence[tuple[Example, str, TaskAnswer]]) -> float | None:
        """Return the limit with most sets that are exactly right; see `best_label_limit`."""
        index = {label: column for column, label in enumerate(info.labels)}
        probabilities = np.zeros((len(rows), len(info.labels)), dtype=np.float32)
        gold = []
        for row, (example, field, answer) in enumerate(rows):
            assert isinstance(answer, Classification)
            for label in answer.ranking:
                probabilities[row, index[label.name]] = label.confidence
            gold.append(gold_classes(example, field))
        return best_label_limit(probabilities, gold, info.labels)

    def with_limit(self, info: TaskInfo, limit: float) -> TaskInfo:
        """Return the task with one limit for all its classes."""
        labels = dict.fromkeys(info.labels, limit)
        return info.model_copy(update={"thresholds": info.thresholds.model_copy(update={"labels": labels})})

    def tables(self, rows: Sequence[Judged]) -> list[ReportTable]:
        """Return scores of the classes, and which stand where others should."""
        label_scores = scores.label_scores(((row.gold, row.predicted) for row in rows), str)
        pairs = scores.set_confusions((row.gold, row.predicted) for row in rows)
        return [LabelTable("Labels", label_scores), ConfusionTable(pairs)]

    def error_confidence(self, row: Judged) -> float | None:
        """Return the confidence of the surest wrong class: of applying where it was answered, of the opposite where not."""
        assert isinstance(row.answer, Classification)
        wrong = row.gold ^ row.predicted
        confidences = [
            label.confidence if label.name in row.predicted else 1 - label.confidence
            for label in row.answer.ranking
            if label.name in wrong
        ]
        return max(confidences, default=None)

    def sides(self, row: Judged) -> tuple[MistakeSide, MistakeSide, tuple[Segment, ...]]:
        """Return the gold and the answered classes with their confidences, and the texts."""
        assert isinstance(row.answer, Classification)
        confidences = {label.name: label.confidence for label in row.answer.ranking}
        gold = [
            Segment(name, "", "right" if name in row.predicted else "missed", confidences.get(name))
            for name in sorted(row.gold)
        ]
        answered = [
            Segment(name, "", "right" if name in row.gold else "wrong", confidences.get(name))
            for name in sorted(row.predicted)
        ]
        return MistakeSide(labels=tuple(gold)), MistakeSide(labels=tuple(answered)), text_segments(row.example)

    def palm_record(
        self, example: Example, index: int, info: TaskInfo, answer: Any, logits: FloatArray | None
    ) -> dict[str, Any]:
        """Return the first class of the ranking, the classes that apply, logits and probabilities."""
        confidences = {label.name: label.confidence for label in answer.ranking}
        return {
            "label": info.labels.index(answer.label.name),
            "name": answer.label.name,
            "names": [label.name for label in answer.labels],
            "logits": numbers(logits),
            "probs": [confidences[name] for name in info.labels],
        }


def gold_classes(example: Example, field: str) -> frozenset[str]:
    """Return the classes of a field, one or several."""
    value = example.fields[field]
    if isinstance(value, str):
        return frozenset({value})
    return frozenset(item for item in value if isinstance(item, str))


def best_label_limit(
    probabilities: npt.NDArray[np.float32], gold: Sequence[frozenset[str]], labels: Sequence[str]
) -> float:
    """Return the best limit of 0.05, 0.06, ... 0.95.

    That is the one with most sets that are exactly right, then the best micro-averaged F1, then nearest to 0.5.

    Args:
        probabilities: [N, C].
        gold: the classes of each row.
        labels: names of the C classes.
    """

    def key(limit: float) -> tuple[float, float, float]:
        predicted = [_applying(row, labels) for row in probabilities >= np.float32(limit)]
        scores = set_scores(gold, predicted)
        return scores["accuracy"], scores["f1"], -abs(limit - 0.5)

    return max((round(0.01 * i, 2) for i in range(5, 96)), key=key)


def _applying(row: npt.NDArray[np.bool_], labels: Sequence[str]) -> frozenset[str]:
    """Return the labels that a row [C] marks."""
    return frozenset(labels[int(column)] for column in np.flatnonzero(row))

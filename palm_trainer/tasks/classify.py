"""Task kind: one class of a text, or of a pair of texts."""

from collections.abc import Sequence
from typing import Any

from palm_serve.bundle.manifest import TaskInfo
from palm_serve.types import Classification, FloatArray, TaskAnswer
from palm_trainer.config.schema import ClassifyTask, TaskConfig
from palm_trainer.data.example import Example
from palm_trainer.data.targets.classify import ClassifyTarget
from palm_trainer.tasks import scores
from palm_trainer.tasks.base import Judged, LearnContext, TaskKind, numbers, text_segments
from palm_trainer.tasks.logit_calibration import SoftmaxCalibration
from palm_trainer.tasks.metrics import accuracy
from palm_trainer.tasks.mistakes import MistakeSide, Segment, label_side
from palm_trainer.tasks.report_tables import ConfusionTable, LabelTable, ReportTable


class ClassifyKind(TaskKind):
    """One class, by a softmax over all classes."""

    name = "classify"
    section = ClassifyTask
    detects_out_of_scope = True

    def learn(
        self, task: str, settings: TaskConfig, examples: Sequence[Example], context: LearnContext
    ) -> ClassifyTarget:
        """Build the target with the classes of the examples.

        Args:
            task: task name.
            settings: `role` goes into the manifest, `names` may add classes.
            examples: of all data sets of the task; their classes are learnt.
            context: not used.
        """
        assert isinstance(settings, ClassifyTask)
        return ClassifyTarget.learn(
            task,
            settings.field or "",
            examples,
            role=settings.role,
            names=settings.names,
            names_only=settings.names_only,
        )

    def exclusive_labels(self, info: TaskInfo) -> bool:
        """Return True: one class applies."""
        return True

    def compare(self, example: Example, field: str, answer: TaskAnswer) -> tuple[Any, Any]:
        """Return the names of the gold and the answered class.

        Args:
            example: with the gold label.
            field: that holds it.
            answer: of the model.
        """
        assert isinstance(answer, Classification)
        return example.fields[field], answer.label.name

    def outcomes(self, example: Example, field: str, answer: TaskAnswer) -> list[tuple[float, bool]]:
        """Return the confidence of the answered class, and whether it is right.

        Args:
            example: with the gold label.
            field: that holds it.
            answer: of the model.
        """
        assert isinstance(answer, Classification)
        return [(answer.label.confidence, example.fields[field] == answer.label.name)]

    def metrics(self, rows: Sequence[Judged], positive: str) -> dict[str, float]:
        """Return the accuracy."""
        return {"accuracy": accuracy([row.gold for row in rows], [row.predicted for row in rows])}

    def logit_calibration(self, info: TaskInfo) -> SoftmaxCalibration:
        """Return the calibration of a softmax."""
        return SoftmaxCalibration()

    def tables(self, rows: Sequence[Judged]) -> list[ReportTable]:
        """Return scores of the classes and their confusion."""
        return class_tables(rows)

    def error_confidence(self, row: Judged) -> float | None:
        """Return the confidence of the answered class."""
        assert isinstance(row.answer, Classification)
        return row.answer.label.confidence

    def sides(self, row: Judged) -> tuple[MistakeSide, MistakeSide, tuple[Segment, ...]]:
        """Return the gold class with its confidence, the answered class, and the texts."""
        assert isinstance(row.answer, Classification)
        confidences = {label.name: label.confidence for label in row.answer.ranking}
        best = row.answer.ranking[0]
        gold = label_side(row.gold, "missed", confidences.get(row.gold))
        return gold, label_side(best.name, "wrong", best.confidence), text_segments(row.example)

    def palm_record(
        self, example: Example, index: int, info: TaskInfo, answer: Any, logits: FloatArray | None
    ) -> dict[str, Any]:
        """Return the class, its number, and logits and probabilities of all classes."""
        confidences = {label.name: label.confidence for label in answer.ranking}
        return {
            "label": info.labels.index(answer.label.name),
            "name": answer.label.name,
            "logits": numbers(logits),
            "probs": [confidences[name] for name in info.labels],
        }


def class_tables(rows: Sequence[Judged]) -> list[ReportTable]:
    """Return scores of each class and the confusion of classes."""
    label_scores = scores.label_scores((((row.gold,), (row.predicted,)) for row in rows), str)
    pairs = scores.label_pairs((row.gold for row in rows), (row.predicted for row in rows))
    return [LabelTable("Labels", label_scores), ConfusionTable(pairs, as_matrix=True)]

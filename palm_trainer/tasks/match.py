"""Task kind: a class of a pair of texts (pointwise), or a score that ranks pairs (pairwise)."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from palm_serve.bundle.manifest import TaskInfo
from palm_serve.types import FloatArray, Match, TaskAnswer
from palm_trainer.config.schema import MatchTask, TaskConfig
from palm_trainer.data.example import Example, FieldValue
from palm_trainer.data.targets.base import Target
from palm_trainer.data.targets.match import NEGATIVE, MatchTarget, RankTarget, with_negatives
from palm_trainer.tasks import scores
from palm_trainer.tasks.base import Judged, LearnContext, TaskKind, numbers, text_segments
from palm_trainer.tasks.classify import class_tables
from palm_trainer.tasks.logit_calibration import SoftmaxCalibration
from palm_trainer.tasks.metrics import label_scores, pairwise_accuracy
from palm_trainer.tasks.mistakes import Mistake, MistakeSide, Segment, label_side, short_source, shorten_text
from palm_trainer.tasks.report_tables import MatchThresholds, ReportTable

_SCORE_STEPS = tuple(step / 10 for step in range(1, 10))


class MatchKind(TaskKind):
    """Pairs of texts. A ranker has no labels: its rows are a pair and its negative in turn, its answers scores."""

    name = "match"
    section = MatchTask

    def fitting_fields(self, fields: Mapping[str, FieldValue], settings: TaskConfig) -> list[str]:
        """Return the fields with a class; of a ranker the field with the negative text."""
        if ranks_pairs(settings):
            return [name for name, value in fields.items() if name == NEGATIVE and self.fits(value)]
        return super().fitting_fields(fields, settings)

    def learn(self, task: str, settings: TaskConfig, examples: Sequence[Example], context: LearnContext) -> Target:
        """Build the target with the classes of the pairs, or that of a ranker.

        Args:
            task: task name.
            settings: `match_label` names the class of a match, `learning_strategy` selects a ranker.
            examples: pairs of all data sets of the task.
            context: not used.
        """
        field = settings.field or ""
        if ranks_pairs(settings):
            return RankTarget.learn(task, field, examples)
        assert isinstance(settings, MatchTask)
        return MatchTarget.learn(task, field, examples, match_label=settings.match_label)

    def evaluation_examples(self, settings: TaskConfig, field: str, examples: Sequence[Example]) -> Sequence[Example]:
        """Return the examples; for a ranker each pair followed by its negative.

        Args:
            settings: tell a ranker from a classifier.
            field: a ranker's field of negatives.
            examples: pairs of the split.
        """
        return with_negatives(examples, field) if ranks_pairs(settings) else examples

    def has_labels(self, settings: TaskConfig) -> bool:
        """Return False for a ranker, whose field holds texts."""
        return not ranks_pairs(settings)

    def counts_labels(self, info: TaskInfo) -> bool:
        """Return False for a ranker, whose field holds texts."""
        return bool(info.labels)

    def field_summary(self, settings: TaskConfig, field: str, examples: Sequence[Example]) -> str:
        """Describe how often each class occurs; of a ranker how many pairs have a negative.

        Args:
            settings: tell a ranker from a classifier.
            field: the class, or a ranker's negatives.
            examples: training pairs.
        """
        if ranks_pairs(settings):
            return f"{sum(field in example.fields for example in examples)} with a negative"
        return super().field_summary(settings, field, examples)

    def exclusive_labels(self, info: TaskInfo) -> bool:
        """Return True unless the task is a ranker."""
        return bool(info.labels)

    def compare(self, example: Example, field: str, answer: TaskAnswer) -> tuple[Any, Any]:
        """Return gold and answered class; of a ranker the score.

        Args:
            example: with the gold label.
            field: that holds it.
            answer: of the model.
        """
        assert isinstance(answer, Match)
        return example.fields[field], answer.label.name if answer.label else answer.score

    def outcomes(self, example: Example, field: str, answer: TaskAnswer) -> list[tuple[float, bool]]:
        """Return the confidence of the answered class, and whether it is right; nothing for a ranker."""
        assert isinstance(answer, Match)
        if answer.label is None:
            return []
        return [(answer.label.confidence, example.fields[field] == answer.label.name)]

    def metrics(self, rows: Sequence[Judged], positive: str) -> dict[str, float]:
        """Return accuracy and F1 of the match; of a ranker the share of pairs above their negative."""
        predicted = [row.predicted for row in rows]
        if positive:
            return label_scores([row.gold for row in rows], predicted, positive)
        return {"accuracy": pairwise_accuracy(predicted)}

    def units(self, rows: Sequence[Judged]) -> list[tuple[Judged, ...]]:
        """Group each pair of a ranker with its negative."""
        if not _are_ranked(rows):
            return super().units(rows)
        return list(zip(rows[::2], rows[1::2], strict=True))

    def contribution(self, unit: Sequence[Judged]) -> tuple[float, float]:
        """Return 1 or 0, and 1."""
        return float(self.is_unit_correct(unit)), 1.0

    def is_unit_correct(self, unit: Sequence[Judged]) -> bool:
        """Return True if the class is right, or the pair scores above its negative."""
        if len(unit) > 1:
            return bool(unit[0].predicted > unit[1].predicted)
        return self.is_correct(unit[0])

    def logit_calibration(self, info: TaskInfo) -> SoftmaxCalibration | None:
        """Return the calibration of a softmax; None for a ranker."""
        return SoftmaxCalibration() if info.labels else None

    def tables(self, rows: Sequence[Judged]) -> list[ReportTable]:
        """Return scores of the classes and their confusion; nothing for a ranker."""
        return [] if _are_ranked(rows) else class_tables(rows)

    def match_thresholds(self, info: TaskInfo, rows: Sequence[Judged]) -> MatchThresholds | None:
        """Return what saying yes from a score on would give; None for a ranker."""
        if not info.labels:
            return None
        label = info.decode.match_label
        points = [(row.answer.score, row.gold == label) for row in rows if isinstance(row.answer, Match)]
        return MatchThresholds(label, scores.match_thresholds(points, _SCORE_STEPS))

    def summary(self, rows: Sequence[Judged]) -> str:
        """Say how many answers are wrong."""
        if not _are_ranked(rows):
            return super().summary(rows)
        wrong = sum(not self.is_unit_correct(unit) for unit in self.units(rows))
        return f"{wrong:,} of {len(rows) // 2:,} pairs do not score above their negative."

    def mistakes(self, rows: Iterable[Judged]) -> list[Mistake]:
        """Return all wrong classes; of a ranker the pairs that do not score above their negative."""
        rows = list(rows)
        if not _are_ranked(rows):
            return super().mistakes(rows)
        return [
            _ranking_mistake(positive, negative)
            for positive, negative in self.units(rows)
            if negative.predicted >= positive.predicted
        ]

    def error_confidence(self, row: Judged) -> float | None:
        """Return the confidence of the answered class."""
        assert isinstance(row.answer, Match)
        return row.answer.label.confidence if row.answer.label else None

    def sides(self, row: Judged) -> tuple[MistakeSide, MistakeSide, tuple[Segment, ...]]:
        """Return the gold class, the answered class, and both texts."""
        assert isinstance(row.answer, Match)
        assert row.answer.label is not None
        answered = label_side(row.answer.label.name, "wrong", row.answer.label.confidence)
        return label_side(row.gold, "missed"), answered, text_segments(row.example)

    def palm_record(
        self, example: Example, index: int, info: TaskInfo, answer: Any, logits: FloatArray | None
    ) -> dict[str, Any]:
        """Return the class, its number, logits, probabilities and the score; of a ranker the score as `probs`."""
        if answer.label is None:
            return {"probs": answer.score}
        assert logits is not None
        odds = np.exp(logits - logits.max())
        return {
            "label": info.labels.index(answer.label.name),
            "name": answer.label.name,
            "logits": numbers(logits),
            "probs": numbers(odds / odds.sum()),
            "score": answer.score,
        }


def ranks_pairs(settings: TaskConfig) -> bool:
    """Return True for a ranker."""
    return isinstance(settings, MatchTask) and settings.learning_strategy == "pairwise"


def _are_ranked(rows: Sequence[Judged]) -> bool:
    """Return True for the rows of a ranker."""
    return bool(rows) and all(isinstance(row.answer, Match) and row.answer.label is None for row in rows)


def _ranking_mistake(positive: Judged, negative: Judged) -> Mistake:
    """Return a ranker's mistake; its confidence is by how much the negative scores above the pair."""
    example = positive.example
    return Mistake(
        example.source,
        short_source(example.source),
        positive.data,
        (shorten_text(example.text),),
        _scored_side(example.pair or "", "missed", positive.predicted),
        _scored_side(negative.example.pair or "", "wrong", negative.predicted),
        negative.predicted - positive.predicted,
    )


def _scored_side(text: str, status: str, score: float) -> MistakeSide:
    return MistakeSide((shorten_text(text),), label_side("score", status, score).labels)

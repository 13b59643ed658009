"""Confidence against how often it was right: reliability diagram and expected calibration error (Guo et al. 2017, section 2, equal-width bins)."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from palm_serve.types import Answer, Classification, Match, Spans
from palm_trainer.example import LabelledSpan
from palm_trainer.metrics import to_units
from palm_trainer.report.rows import Judged

BINS = 10

Point = tuple[float, bool]
"""A confidence, and whether what was answered with it is right."""


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers with a confidence in (low, high]: how many, their mean confidence, and the share that is right."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def points(kind: str, rows: Iterable[Judged]) -> list[Point]:
    """Each answer with its confidence: a class, each class that was said to apply, each whole span, or a passage's answer. None for a ranker."""
    return [point for row in rows for point in _points(kind, row)]


def _points(kind: str, row: Judged) -> Iterator[Point]:
    match row.answer:
        case Classification(labels=labels) if kind == "multi_label":
            yield from ((label.confidence, label.name in row.gold) for label in labels)
        case Classification(label=label):
            yield label.confidence, row.correct
        case Match(label=label) if label is not None:
            yield label.confidence, row.correct
        case Spans(spans=spans):
            for span in spans:
                unit = to_units([LabelledSpan(span.start, span.end, span.name)], row.example.words)
                yield span.confidence, unit <= row.gold
        case Answer(confidence=confidence):
            yield confidence, row.correct


def bins(found: Sequence[Point], count: int = BINS) -> list[Bin]:
    """The bins that hold an answer, by confidence."""
    grouped: dict[int, list[Point]] = {}
    for confidence, right in found:
        # (low, high]: an answer at exactly 1 belongs to the last bin, as one at 0 to the first
        place = min(count - 1, max(0, math.ceil(confidence * count) - 1))
        grouped.setdefault(place, []).append((confidence, right))
    return [
        Bin(
            place / count,
            (place + 1) / count,
            len(own),
            sum(confidence for confidence, _ in own) / len(own),
            sum(right for _, right in own) / len(own),
        )
        for place, own in sorted(grouped.items())
    ]


def expected_calibration_error(found: Sequence[Bin]) -> float:
    """Mean distance of confidence and accuracy over the bins, weighted by their answers."""
    total = sum(one.count for one in found)
    return sum(one.count * abs(one.confidence - one.accuracy) for one in found) / total if total else 0.0

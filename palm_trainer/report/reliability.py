"""Confidence against how often it was right: the reliability diagram (Guo et al. 2017, section 2, equal-width bins)."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from palm_trainer.evaluation.evaluate import outcomes
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
    """Each answer with its confidence (see `evaluation.outcomes`)."""
    return [point for row in rows for point in outcomes(kind, row.example, row.field, row.answer)]


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

"""Bins of a reliability diagram: accuracy by confidence, in bins of equal width.

See Guo et al. 2017, section 2.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

BIN_COUNT = 10

ConfidencePoint = tuple[float, bool]
"""A confidence, and True if the answer with this confidence is right."""


@dataclass(frozen=True, slots=True)
class ConfidenceBin:
    """Answers with a confidence in (low, high]: their number, mean confidence and accuracy."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def group_into_bins(points: Sequence[ConfidencePoint], count: int = BIN_COUNT) -> list[ConfidenceBin]:
    """Group answers into bins by confidence. Empty bins are left out."""
    points_by_bin: dict[int, list[ConfidencePoint]] = {}
    for confidence, right in points:
        # A bin is (low, high]: a confidence of 1 is in the last bin. A confidence of 0 is in the first.
        index = min(count - 1, max(0, math.ceil(confidence * count) - 1))
        points_by_bin.setdefault(index, []).append((confidence, right))
    bins = []
    for index, bin_points in sorted(points_by_bin.items()):
        size = len(bin_points)
        confidence = sum(confidence for confidence, _ in bin_points) / size
        accuracy = sum(right for _, right in bin_points) / size
        bins.append(ConfidenceBin(index / count, (index + 1) / count, size, confidence, accuracy))
    return bins

"""Paired score differences over seeds and examples, with bootstrap confidence intervals.

This module uses numpy only and is independent of models and tasks.

A score is a ratio of two sums over examples:

    accuracy                 correct / 1
    micro-averaged F1        2 x hits / (gold + predicted)
    reading comprehension    F1 / 1

Each example therefore enters as two numbers, and the score of every resample is exact, also for
micro-averages.

The bootstrap is crossed. Each draw resamples the examples and the seeds. The resampled examples are
the same for all seeds and both trainings, because all models answer the same examples. A resampled
seed keeps both its models.

Few seeds need two corrections. The deviations of the seeds from their mean are multiplied by
sqrt(S / (S - 1)), because a resample of S seeds has too small a spread. The interval is multiplied
by t / z, where t has the effective degrees of freedom of examples and seeds together
(Satterthwaite 1946).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri, stdtrit

CONFIDENCE_LEVEL = 0.95
BOOTSTRAP_DRAWS = 2000

HELPED = "helped"
HURT = "hurt"
NO_DIFFERENCE = "no difference shown"

_UPPER_QUANTILE = (1 + CONFIDENCE_LEVEL) / 2
_CHUNK = 4_000_000
"""Resampled examples that are in memory at a time."""

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ScoreCounts:
    """Numerator and denominator of each example, both `[seeds, examples]`."""

    numerator: FloatArray
    denominator: FloatArray

    def scores(self) -> FloatArray:
        """Return the score of each seed, `[seeds]`."""
        return _divide(self.numerator.sum(axis=1), self.denominator.sum(axis=1))


@dataclass(frozen=True, slots=True)
class ScoreDifference:
    """Mean difference over seeds with its confidence interval and two-sided p value."""

    mean: float
    low: float
    high: float
    p: float

    @property
    def verdict(self) -> str:
        """Return `helped`, `hurt` or `no difference shown`."""
        if self.low > 0:
            return HELPED
        if self.high < 0:
            return HURT
        return NO_DIFFERENCE


def bootstrap_difference(
    joint: ScoreCounts, alone: ScoreCounts, *, draws: int = BOOTSTRAP_DRAWS, seed: int = 0
) -> ScoreDifference:
    """Estimate the score of `joint` minus the score of `alone`, as a mean over seeds.

    Args:
        joint: counts of the joint training.
        alone: counts of the single-task training, with the same examples, example order and number
            of seeds.
        draws: number of bootstrap resamples.
        seed: seed of the resampling.
    """
    generator = np.random.default_rng(seed)
    seed_differences = joint.scores() - alone.scores()
    seed_count = len(seed_differences)
    mean = float(seed_differences.mean())
    resampled = _resample_examples(joint, alone, draws, generator)  # [draws, seeds]
    draw_means = resampled.mean(axis=1)
    estimates = draw_means
    degrees_of_freedom = np.inf
    if seed_count > 1:
        drawn_seeds = generator.integers(seed_count, size=(draws, seed_count))
        drawn_means = np.take_along_axis(resampled, drawn_seeds, axis=1).mean(axis=1)
        estimates = draw_means + np.sqrt(seed_count / (seed_count - 1)) * (drawn_means - draw_means)
        seed_variance = seed_differences.var(ddof=1) / seed_count
        example_variance = draw_means.var(ddof=1)
        if seed_variance > 0:
            variance_ratio = (seed_variance + example_variance) / seed_variance
            degrees_of_freedom = float((seed_count - 1) * variance_ratio**2)
    widened = np.clip(mean + (estimates - mean) * _interval_factor(degrees_of_freedom), -1.0, 1.0)
    low, high = np.quantile(widened, [1 - _UPPER_QUANTILE, _UPPER_QUANTILE])
    tail_count = min(int((widened <= 0).sum()), int((widened >= 0).sum()))
    p_value = min(1.0, 2 * (tail_count + 1) / (draws + 1))
    return ScoreDifference(mean, float(low), float(high), p_value)


def apply_holm_correction(p_values: Sequence[float]) -> list[bool]:
    """Mark the p values that stay significant after Holm's step-down correction (1979)."""
    significant = [False] * len(p_values)
    for rank, index in enumerate(np.argsort(p_values, kind="stable").tolist()):
        if p_values[index] > (1 - CONFIDENCE_LEVEL) / (len(p_values) - rank):
            break
        significant[index] = True
    return significant


def _interval_factor(degrees_of_freedom: float) -> float:
    """Return t / z at the upper quantile."""
    if np.isinf(degrees_of_freedom):
        return 1.0
    return float(stdtrit(degrees_of_freedom, _UPPER_QUANTILE) / ndtri(_UPPER_QUANTILE))


def _resample_examples(
    joint: ScoreCounts, alone: ScoreCounts, draws: int, generator: np.random.Generator
) -> FloatArray:
    """Compute the difference of each seed on each resample of the examples, `[draws, seeds]`."""
    counts = (joint.numerator, joint.denominator, alone.numerator, alone.denominator)
    values = np.concatenate(counts).T.astype(np.float64)  # [examples, 4 x seeds]
    example_count = len(values)
    chunk_draws = max(1, _CHUNK // example_count)
    differences = []
    for begin in range(0, draws, chunk_draws):
        rows = min(chunk_draws, draws - begin)
        row_offsets = example_count * np.arange(rows)[:, None]
        drawn_examples = generator.integers(example_count, size=(rows, example_count)) + row_offsets
        occurrences = np.bincount(drawn_examples.ravel(), minlength=rows * example_count)
        weights = occurrences.reshape(rows, example_count).astype(np.float64)
        sums = np.split(weights @ values, 4, axis=1)
        joint_numerator, joint_denominator, alone_numerator, alone_denominator = sums
        joint_scores = _divide(joint_numerator, joint_denominator)
        alone_scores = _divide(alone_numerator, alone_denominator)
        differences.append(joint_scores - alone_scores)
    return np.concatenate(differences)


def _divide(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """Divide, with 0 where the denominator is 0, as the metrics do."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)

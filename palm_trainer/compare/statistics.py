"""Did it help? Paired differences over seeds and examples with bootstrap intervals. Pure numpy: nothing here knows a model.

A score is a ratio of sums over examples: right / 1 for accuracy, 2 x hits / (gold + predicted) for micro-averaged F1, F1 / 1 for reading
comprehension. So an example enters as two numbers, and the score of any resample is exact, micro-averages too.

The bootstrap is crossed. A draw resamples the examples, the same for all seeds and both sides (all models are asked the same questions, so an
unlucky test set is unlucky for all), and the seeds with both their models. Two corrections for few seeds, without which three seeds pass for
certainty: deviations of seeds from their mean are widened by sqrt(S / (S - 1)), since the spread of a resample of S is too small by that;
and the interval by t / z with the effective degrees of freedom of both sources together (Satterthwaite 1946).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri, stdtrit

LEVEL = 0.95
DRAWS = 2000
_UPPER = (1 + LEVEL) / 2
_CHUNK = 4_000_000
"""Resampled examples in memory at a time."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Counts:
    """Numerator and denominator of each example, [seeds, examples] each."""

    numerator: Floats
    denominator: Floats

    def scores(self) -> Floats:
        """Score of each seed, [seeds]."""
        return _ratio(self.numerator.sum(axis=1), self.denominator.sum(axis=1))


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean difference over seeds with its interval and two-sided p value, all of one bootstrap."""

    mean: float
    low: float
    high: float
    p: float

    @property
    def verdict(self) -> str:
        """`helped`, `hurt` or `no difference shown`."""
        return "helped" if self.low > 0 else "hurt" if self.high < 0 else "no difference shown"


def difference(joint: Counts, alone: Counts, *, draws: int = DRAWS, seed: int = 0) -> Difference:
    """Score of `joint` minus that of `alone`, mean over seeds.

    Args:
        joint, alone: the same examples in the same order, and as many seeds.
        draws: resamples.
        seed: of the resampling.
    """
    generator = np.random.default_rng(seed)
    by_seed = joint.scores() - alone.scores()
    seeds, mean = len(by_seed), float(by_seed.mean())
    drawn = _resampled(joint, alone, draws, generator)  # (draws, seeds)
    centre = drawn.mean(axis=1)
    spread = centre
    degrees = np.inf
    if seeds > 1:
        chosen = generator.integers(seeds, size=(draws, seeds))
        picked = np.take_along_axis(drawn, chosen, axis=1).mean(axis=1)
        spread = centre + np.sqrt(seeds / (seeds - 1)) * (picked - centre)
        of_seeds, of_examples = by_seed.var(ddof=1) / seeds, centre.var(ddof=1)
        if of_seeds > 0:
            degrees = float((seeds - 1) * ((of_seeds + of_examples) / of_seeds) ** 2)
    widened = np.clip(mean + (spread - mean) * _widening(degrees), -1.0, 1.0)
    low, high = np.quantile(widened, [1 - _UPPER, _UPPER])
    beyond = min(int((widened <= 0).sum()), int((widened >= 0).sum()))
    return Difference(mean, float(low), float(high), min(1.0, 2 * (beyond + 1) / (draws + 1)))


def holm(p_values: Sequence[float]) -> list[bool]:
    """Which of several comparisons hold together: Holm's step-down procedure (1979)."""
    held = [False] * len(p_values)
    for place, i in enumerate(np.argsort(p_values, kind="stable").tolist()):
        if p_values[i] > (1 - LEVEL) / (len(p_values) - place):
            break
        held[i] = True
    return held


def _widening(degrees: float) -> float:
    """t / z."""
    return 1.0 if np.isinf(degrees) else float(stdtrit(degrees, _UPPER) / ndtri(_UPPER))


def _resampled(joint: Counts, alone: Counts, draws: int, generator: np.random.Generator) -> Floats:
    """Difference of each seed on each resample of the examples, [draws, seeds]."""
    sides = (joint.numerator, joint.denominator, alone.numerator, alone.denominator)
    values = np.concatenate(sides).T.astype(np.float64)  # (examples, 4 x seeds)
    count = len(values)
    chunk = max(1, _CHUNK // count)
    found = []
    for begin in range(0, draws, chunk):
        rows = min(chunk, draws - begin)
        chosen = generator.integers(count, size=(rows, count)) + count * np.arange(rows)[:, None]
        weights = np.bincount(chosen.ravel(), minlength=rows * count).reshape(rows, count).astype(np.float64)
        hits, of, other_hits, other_of = np.split(weights @ values, 4, axis=1)
        found.append(_ratio(hits, of) - _ratio(other_hits, other_of))
    return np.concatenate(found)


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """0 where there is nothing to divide by, as the metrics have it."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)

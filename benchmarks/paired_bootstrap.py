"""Means with intervals over seeds and test utterances at once: a bootstrap that draws both anew.

A score of one arm is a table `[seeds, utterances]` of right (1) and wrong (0), the difference of two arms a table of 1, 0
and -1. Ten seeds on one test set are no ten test sets: an interval over seeds alone says nothing of other utterances.
A replicate draws as many seeds and as many utterances as there are, with replacement, independently of each other.
"""

import base64
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

REPLICATES = 5_000
SEED = 16
_CHUNK = 500
"""Replicates that are computed together."""

Scores = npt.NDArray[np.float64]


class Estimate(NamedTuple):
    """A mean with its 95 % percentile interval, and the two-sided p-value of the hypothesis that it is 0."""

    mean: float
    low: float
    high: float
    p_value: float


def bootstrap(scores: Scores) -> Estimate:
    """Return the mean of a table `[seeds, utterances]` with its interval over both."""
    return _bootstrap(scores.astype(np.float64).tobytes(), scores.shape)


@lru_cache(maxsize=256)
def _bootstrap(values: bytes, shape: tuple[int, ...]) -> Estimate:
    """Return the same from the bytes of a table: a page and its plot ask for each figure several times."""
    scores = np.frombuffer(values).reshape(shape)
    seeds, utterances = shape
    seed_draws = draw_counts(seeds) / seeds
    utterance_draws = draw_counts(utterances)
    means = np.empty(REPLICATES)
    for begin in range(0, REPLICATES, _CHUNK):
        chunk = slice(begin, begin + _CHUNK)
        by_utterance = seed_draws[chunk] @ scores
        means[chunk] = (by_utterance * utterance_draws[chunk]).sum(axis=1) / utterances
    low, high = np.quantile(means, (0.025, 0.975))
    smaller_side = min((means <= 0).sum(), (means >= 0).sum())
    p_value = min(1.0, 2 * (1 + int(smaller_side)) / (REPLICATES + 1))
    return Estimate(float(scores.mean()), float(low), float(high), p_value)


@lru_cache(maxsize=8)
def draw_counts(size: int) -> npt.NDArray[np.uint8]:
    """Return how often each of `size` items is drawn in each replicate, `[replicates, size]`. The same in each call."""
    generator = np.random.default_rng((SEED, size))
    counts = np.empty((REPLICATES, size), dtype=np.uint8)
    for replicate in range(REPLICATES):
        counts[replicate] = np.bincount(generator.integers(size, size=size), minlength=size)
    return counts


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted by Holm's method, in the order given."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, position in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[position]))
        adjusted[position] = largest
    return adjusted


def pack(correct: Sequence[bool]) -> str:
    """Return one bit for each utterance as text."""
    return base64.b64encode(np.packbits(np.asarray(correct, dtype=bool)).tobytes()).decode()


def unpack(text: str, count: int) -> npt.NDArray[np.bool_]:
    """Return the bits of `pack`.

    Raises:
        ValueError: the text holds fewer or more bytes than `count` bits need.
    """
    packed = np.frombuffer(base64.b64decode(text), dtype=np.uint8)
    if len(packed) != -(-count // 8):
        raise ValueError(f"{len(packed)} bytes hold no {count} answers")
    return np.unpackbits(packed, count=count).astype(bool)

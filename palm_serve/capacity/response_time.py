"""Response times of one replica at a rate of calls, from closed loops with a growing number of callers.

The replica is a flow-equivalent server (Chandy, Herzog and Woo, 1975): with n calls in it, it answers X(n) calls a second, as it
did in a closed loop of n callers. Calls arrive as a Poisson process, so the number of calls in it is a birth-death chain with
births at the rate and deaths at X(n). A call that finds n others takes as long as one of n + 1 callers did (arrival theorem),
so the response times are those of the levels, weighted with the chain. Batches, their size and the reordering of calls within
the queue are in X(n) and in the times of the levels, and nothing of them has to be known.

Beyond the largest level the capacity stays what it was there, and times grow with the number of calls.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_POINTS = 200
"""Points of the distribution of response times at one number of calls."""
_NEGLIGIBLE = 1e-9
"""Probability of a number of calls that is left out."""
_FASTEST = 0.5
"""Fastest response time of a level, relative to its median. The report of a load has no lower percentile."""
_LONGEST_CHAIN = 100_000
"""Calls in a replica that the chain has at most."""
_BISECTIONS = 30


@dataclass(frozen=True, slots=True)
class LevelTimes:
    """A closed loop of some callers: its throughput and its response times."""

    callers: int
    calls_per_s: float
    percentiles: tuple[tuple[float, float], ...]
    """Pairs of fraction (0 to 1) and seconds, both rising."""


class ResponseTimes:
    """Response times of a replica.

    Args:
        levels: at least two, the first of one caller, with rising numbers of callers.
    """

    def __init__(self, levels: Sequence[LevelTimes]) -> None:
        self._log_callers = np.log([level.callers for level in levels])
        self._most_callers = levels[-1].callers
        measured: list[float] = []
        for level in levels:
            # More calls do not make a replica slower: a smaller figure is noise.
            measured.append(max([level.calls_per_s, *measured[-1:]]))
        self._calls_per_s = np.array(measured)
        fractions = (np.arange(_POINTS) + 0.5) / _POINTS
        self._log_times = np.log([_quantiles(level, fractions) for level in levels])

    @property
    def capacity(self) -> float:
        """Calls a second that the replica answers at most."""
        return float(self._calls_per_s[-1])

    def quantile(self, rate: float, fraction: float) -> float:
        """Return the seconds within which a fraction of the calls is answered. Infinity at the capacity and above.

        Args:
            rate: calls a second.
            fraction: 0 to 1, such as 0.99.
        """
        chain = self._chain(rate)
        if chain is None:
            return float("inf")
        seconds, weights = chain
        order = np.argsort(seconds, axis=None)
        cumulated = np.cumsum(weights.ravel()[order])
        position = int(np.searchsorted(cumulated, fraction * cumulated[-1]))
        return float(seconds.ravel()[order[min(position, order.size - 1)]])

    def mean(self, rate: float) -> float:
        """Return the mean response time in seconds. Infinity at the capacity and above."""
        chain = self._chain(rate)
        if chain is None:
            return float("inf")
        seconds, weights = chain
        return float(np.sum(seconds * weights) / np.sum(weights))

    def highest_rate(self, fraction: float, limit_s: float, ceiling: float) -> float:
        """Return the highest rate at which a fraction of the calls is answered within a time. 0: at none.

        Args:
            fraction: 0 to 1.
            limit_s: the time in seconds.
            ceiling: highest rate to look at, below the capacity.
        """
        if self.quantile(0.0, fraction) > limit_s:
            return 0.0
        if self.quantile(ceiling, fraction) <= limit_s:
            return ceiling
        low = 0.0
        high = ceiling
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            if self.quantile(middle, fraction) <= limit_s:
                low = middle
            else:
                high = middle
        return low

    def _chain(self, rate: float) -> tuple[Floats, Floats] | None:
        """Return response times [states, points] and their weights, or None if the queue has no end."""
        if rate >= self.capacity:
            return None
        probabilities = self._probabilities(rate)
        states = np.nonzero(probabilities > _NEGLIGIBLE)[0]
        calls = states + 1  # with the call that arrives
        seconds = np.exp(self._interpolated(np.log(calls), self._log_times))
        beyond = np.maximum(1.0, calls / self._most_callers)
        weights = np.repeat(probabilities[states][:, None] / _POINTS, _POINTS, axis=1)
        return seconds * beyond[:, None], weights

    def _probabilities(self, rate: float) -> Floats:
        """Return the probability of each number of calls in the replica, from 0."""
        if rate <= 0:
            return np.array([1.0])
        # Beyond the largest level the probabilities fall as a geometric series.
        ratio = rate / self.capacity
        tail = int(np.ceil(np.log(_NEGLIGIBLE) / np.log(ratio))) + 1
        length = min(self._most_callers + tail, _LONGEST_CHAIN)
        calls = np.arange(1, length + 1)
        speeds = np.interp(np.log(calls), self._log_callers, self._calls_per_s)
        logarithms = np.concatenate([[0.0], np.cumsum(np.log(rate / speeds))])
        probabilities = np.exp(logarithms - logarithms.max())
        return np.asarray(probabilities / probabilities.sum(), dtype=np.float64)

    def _interpolated(self, log_calls: Floats, rows: Floats) -> Floats:
        """Interpolate rows of the levels, linearly over the logarithm of the calls."""
        upper = np.clip(np.searchsorted(self._log_callers, log_calls), 1, len(self._log_callers) - 1)
        lower = upper - 1
        span = self._log_callers[upper] - self._log_callers[lower]
        fraction = np.clip((log_calls - self._log_callers[lower]) / span, 0.0, 1.0)[:, None]
        return np.asarray(rows[lower] * (1 - fraction) + rows[upper] * fraction, dtype=np.float64)


def _quantiles(level: LevelTimes, fractions: Floats) -> Floats:
    points = [fraction for fraction, _ in level.percentiles]
    seconds = [value for _, value in level.percentiles]
    return np.interp(fractions, [0.0, *points], [_FASTEST * seconds[0], *seconds])

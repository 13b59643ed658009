"""Loss-driven mixing: data sets whose loss decreased less are drawn more often.

The inverse training rate of a task is the remaining share of its first loss (Chen et al. 2018,
GradNorm). That of a data set is the mean over its tasks, and its probability is proportional to it.
As in bandit algorithms (Auer et al. 2002, Exp3), a tenth of the draws is uniform, so that a data
set with a low loss is not forgotten.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_FIRST_LOSSES = 10
"""Number of losses whose mean is the first loss."""
_DECAY = 0.9
_UNIFORM_SHARE = 0.1


class LossDriven:
    """Draws each batch separately, since later probabilities depend on losses.

    A draw is a pure function of the seed, the step and the losses so far.

    Args:
        names: names of the data sets.
        steps: of the whole run.
        seed: of the draws.
    """

    def __init__(self, names: Sequence[str], steps: int, seed: int) -> None:
        self.names = tuple(names)
        quota, remainder = divmod(max(steps, len(names)), len(names))
        self.quotas = {}
        for position, name in enumerate(self.names):
            self.quotas[name] = quota + (position < remainder)
        self._seed = seed
        self._losses: dict[str, dict[str, list[float]]] = {name: {} for name in self.names}
        """Number of losses, mean of the first ones, and moving average, by data set and task."""

    def __len__(self) -> int:
        """Steps of the whole run."""
        return sum(self.quotas.values())

    def __getitem__(self, step: int) -> str:
        """Return the data set of a step, counted from 0, given the losses so far."""
        number = np.random.default_rng((self._seed, step)).random()
        position = np.searchsorted(np.cumsum(list(self.shares.values())), number, side="right")
        return self.names[min(int(position), len(self.names) - 1)]

    @property
    def shares(self) -> dict[str, float]:
        """Probability of each data set in the next draw."""
        rates = {name: self._inverse_rate(name) for name in self.names}
        total = sum(rates.values())
        uniform = 1 / len(rates)
        if total == 0:
            return dict.fromkeys(rates, uniform)
        shares = {}
        for name, rate in rates.items():
            shares[name] = (1 - _UNIFORM_SHARE) * rate / total + _UNIFORM_SHARE * uniform
        return shares

    def observe(self, data: str, losses: Mapping[str, float]) -> None:
        """Record the mean losses of a step's tasks."""
        for task, loss in losses.items():
            count, first, recent = self._losses[data].get(task, (0, 0.0, 0.0))
            if count < _FIRST_LOSSES:
                first += (loss - first) / (count + 1)
                recent = first
            else:
                recent = _DECAY * recent + (1 - _DECAY) * loss
            self._losses[data][task] = [count + 1, first, recent]

    def _inverse_rate(self, data: str) -> float:
        """Return the current losses relative to the first ones, averaged over the tasks; 1 without losses."""
        rates = []
        for _, first, recent in self._losses[data].values():
            rates.append(recent / first if first > 0 else 0.0)
        return sum(rates) / len(rates) if rates else 1.0

    def state_dict(self) -> dict[str, Any]:
        """Return by data set and task: number of losses, mean of the first ones, moving average."""
        return _copy(self._losses)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""
        self._losses = _copy(state)


def _copy(losses: Mapping[str, Mapping[str, list[float]]]) -> dict[str, dict[str, list[float]]]:
    copies: dict[str, dict[str, list[float]]] = {}
    for name, tasks in losses.items():
        copies[name] = {task: list(values) for task, values in tasks.items()}
    return copies

"""A data set whose loss fell less is drawn more.

A task's inverse training rate is what is left of its first loss (Chen et al. 2018, GradNorm); that of a data set is the mean over its
tasks, and p is proportional to it. As bandits do (Auer et al. 2002, Exp3), a tenth of the draws is uniform, so that a data set that is
learnt is not forgotten.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_FIRST = 10
_DECAY = 0.9
_UNIFORM = 0.1


class LossDriven:
    """Draws each batch for itself, since later shares depend on losses. A draw is a pure function of seed, step and the losses so far.

    Args:
        names: the data sets.
        steps: of the whole run.
        seed: of the draws.
    """

    def __init__(self, names: Sequence[str], steps: int, seed: int) -> None:
        self.names = tuple(names)
        share, more = divmod(max(steps, len(names)), len(names))
        self.quotas = {name: share + (place < more) for place, name in enumerate(self.names)}
        self._seed = seed
        self._seen: dict[str, dict[str, list[float]]] = {name: {} for name in self.names}

    def __len__(self) -> int:
        """Steps of the whole run."""
        return sum(self.quotas.values())

    def __getitem__(self, step: int) -> str:
        """Data set of a step, counted from 0, by what was observed until now."""
        drawn = np.random.default_rng((self._seed, step)).random()
        place = np.searchsorted(np.cumsum(list(self.shares.values())), drawn, side="right")
        return self.names[min(int(place), len(self.names) - 1)]

    @property
    def shares(self) -> dict[str, float]:
        """p of each data set in the next draw."""
        rates = {name: self._inverse_rate(name) for name in self.names}
        total = sum(rates.values())
        even = 1 / len(rates)
        return {
            name: even if total == 0 else (1 - _UNIFORM) * rate / total + _UNIFORM * even
            for name, rate in rates.items()
        }

    def observe(self, data: str, losses: Mapping[str, float]) -> None:
        """Takes in the mean losses of a step's tasks."""
        for task, loss in losses.items():
            count, first, recent = self._seen[data].get(task, (0, 0.0, 0.0))
            if count < _FIRST:
                first += (loss - first) / (count + 1)
                recent = first
            else:
                recent = _DECAY * recent + (1 - _DECAY) * loss
            self._seen[data][task] = [count + 1, first, recent]

    def _inverse_rate(self, data: str) -> float:
        """What is left of the mean of the first losses, by a moving average; 1 until these are seen."""
        rates = [recent / first if first > 0 else 0.0 for _, first, recent in self._seen[data].values()]
        return sum(rates) / len(rates) if rates else 1.0

    def state_dict(self) -> dict[str, Any]:
        """By data set and task: losses seen, mean of the first, moving average."""
        return {name: {task: list(seen) for task, seen in tasks.items()} for name, tasks in self._seen.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues where `state_dict` was taken."""
        self._seen = {name: {task: list(seen) for task, seen in tasks.items()} for name, tasks in state.items()}

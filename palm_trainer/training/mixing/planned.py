"""Planned mixing: exact quotas in random order, known before the run starts.

Independent draws would scatter around them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


class PlannedMixing:
    """A random permutation of the batches that the quotas allow, as a pure function of the arguments.

    Args:
        phases: batches of each data set in each phase. All phases name the same data sets, and each
            is shuffled separately.
        seed: of the permutations.
    """

    def __init__(self, phases: Sequence[Mapping[str, int]], seed: int) -> None:
        self.names = tuple(phases[0])
        self.phases = tuple(phases)
        self.quotas = dict.fromkeys(self.names, 0)
        for phase in phases:
            for name in self.names:
                self.quotas[name] += phase[name]
        generator = np.random.default_rng(seed)
        orders = []
        for phase in phases:
            order = np.repeat(np.arange(len(self.names)), [phase[name] for name in self.names])
            orders.append(generator.permutation(order) if len(self.names) > 1 else order)
        self._order = np.concatenate(orders)

    def __len__(self) -> int:
        """Steps of the whole run."""
        return len(self._order)

    def __getitem__(self, step: int) -> str:
        """Return the data set of a step, counted from 0."""
        return self.names[int(self._order[step])]

    def observe(self, data: str, losses: Mapping[str, float]) -> None:
        """Do nothing: the order is fixed."""

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state: the number of the step is enough."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Do nothing: there is no state."""

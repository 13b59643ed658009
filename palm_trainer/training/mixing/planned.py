"""An order that is known before the run starts: exact quotas, shuffled. Drawing each batch for itself would scatter around them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


class PlannedMixing:
    """A random permutation of exactly as many batches of each data set as its quota says; a pure function of its arguments.

    Args:
        phases: batches of each data set, phase after phase; each phase is shuffled in itself. All name the same data sets.
        seed: of the permutations.
    """

    def __init__(self, phases: Sequence[Mapping[str, int]], seed: int) -> None:
        self.names = tuple(phases[0])
        self.phases = tuple(phases)
        self.quotas = {name: sum(phase[name] for phase in phases) for name in self.names}
        generator = np.random.default_rng(seed)
        several = len(self.names) > 1
        orders = [np.repeat(np.arange(len(self.names)), [phase[name] for name in self.names]) for phase in phases]
        self._order = np.concatenate([generator.permutation(order) if several else order for order in orders])

    def __len__(self) -> int:
        """Steps of the whole run."""
        return len(self._order)

    def __getitem__(self, step: int) -> str:
        """Data set of a step, counted from 0."""
        return self.names[int(self._order[step])]

    def observe(self, data: str, losses: Mapping[str, float]) -> None:
        """Losses change nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the number of the step says all."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to load."""

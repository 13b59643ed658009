"""One batch of each data set in turn."""

from collections.abc import Mapping, Sequence
from typing import Any


class RoundRobin:
    """The data sets in their order, over and over.

    Args:
        names: the data sets.
        rounds: batches of each.
    """

    def __init__(self, names: Sequence[str], rounds: int) -> None:
        self.names = tuple(names)
        self.quotas = dict.fromkeys(self.names, max(1, rounds))

    def __len__(self) -> int:
        """Steps of the whole run."""
        return sum(self.quotas.values())

    def __getitem__(self, step: int) -> str:
        """Data set of a step, counted from 0."""
        return self.names[step % len(self.names)]

    def observe(self, data: str, losses: Mapping[str, float]) -> None:
        """Losses change nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the number of the step says all."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to load."""

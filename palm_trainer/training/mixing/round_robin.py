"""Round robin: one batch of each data set in turn."""

from collections.abc import Mapping, Sequence
from typing import Any


class RoundRobin:
    """The data sets in their order, over and over.

    Args:
        names: names of the data sets.
        rounds: batches of each data set.
    """

    def __init__(self, names: Sequence[str], rounds: int) -> None:
        self.names = tuple(names)
        self.quotas = dict.fromkeys(self.names, max(1, rounds))

    def __len__(self) -> int:
        """Steps of the whole run."""
        return sum(self.quotas.values())

    def __getitem__(self, step: int) -> str:
        """Return the data set of a step, counted from 0."""
        return self.names[step % len(self.names)]

    def observe(self, data: str, losses: Mapping[str, float]) -> None:
        """Do nothing: the order is fixed."""

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state: the number of the step is enough."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Do nothing: there is no state."""

"""Interface of the mixing policies."""

from collections.abc import Mapping
from typing import Any, Protocol


class Mixing(Protocol):
    """Order of the data sets' batches."""

    @property
    def quotas(self) -> Mapping[str, int]:
        """Batches of each data set over the whole run.

        If draws depend on losses: with equal progress of all tasks.
        """

    def __len__(self) -> int:
        """Steps of the whole run."""

    def __getitem__(self, step: int) -> str:
        """Return the data set of a step, counted from 0.

        The answer is the same until the next `observe`.
        """

    def observe(self, data: str, losses: Mapping[str, float]) -> None:
        """Record a step on a data set: the mean loss of each of its tasks that had a label."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next draw depends on, except the number of its step."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""

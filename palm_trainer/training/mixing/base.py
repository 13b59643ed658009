"""What the training loop asks of a mixing policy."""

from collections.abc import Mapping
from typing import Any, Protocol


class Mixing(Protocol):
    """The order of the data sets' batches."""

    @property
    def quotas(self) -> Mapping[str, int]:
        """Batches of each data set over the whole run; where the draws depend on the losses, as long as these fall alike."""

    def __len__(self) -> int:
        """Steps of the whole run."""

    def __getitem__(self, step: int) -> str:
        """Data set of a step, counted from 0; asked again, it answers the same until the next `observe`."""

    def observe(self, data: str, losses: Mapping[str, float]) -> None:
        """Takes in what a step on a data set gave: the mean loss of each of its tasks that had a label."""

    def state_dict(self) -> dict[str, Any]:
        """All that the next draw depends on, beside the number of its step."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues where `state_dict` was taken."""

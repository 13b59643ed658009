"""Fixed weights: the configuration's `weight` of each task."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from palm_trainer.training.balancing.base import Scale, total


class FixedWeights:
    """sum over tasks of weight x mean loss."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._weights = dict(weights)

    def combine(self, losses: Mapping[str, Tensor]) -> Tensor:
        """One scalar from the tasks' mean losses."""
        return total([self._weights[task] * loss for task, loss in losses.items()])

    def backward(self, losses: Mapping[str, Tensor], scale: Scale, share: float = 1.0) -> None:
        """Adds the gradients of the sum."""
        scale(self.combine(losses)).backward()

    def observe(self, losses: Mapping[str, float]) -> None:
        """Losses change nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to load."""

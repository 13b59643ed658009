"""Fixed weights: the configured `weight` of each task."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from palm_trainer.training.balancing.base import Scale, weighted_sum


class FixedWeights:
    """Weighted sum of the mean losses of the tasks."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._weights = dict(weights)

    def combine(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Return the weighted sum of the tasks' mean losses."""
        return weighted_sum(losses, self._weights)

    def backward(self, losses: Mapping[str, Tensor], scale: Scale, fraction: float = 1.0) -> None:
        """Add the gradients of the sum.

        Args:
            losses: by task.
            scale: gradient scaler.
            fraction: not used.
        """
        scale(self.combine(losses)).backward()

    def observe(self, losses: Mapping[str, float]) -> None:
        """Do nothing: weights are fixed."""

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Do nothing: there is no state."""

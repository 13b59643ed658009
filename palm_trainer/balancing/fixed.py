"""Fixed weights: the configuration's `weight` of each task."""

from collections.abc import Mapping

from torch import Tensor


class FixedWeights:
    """sum over tasks of weight x mean loss."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._weights = dict(weights)

    def combine(self, losses: Mapping[str, Tensor]) -> Tensor:
        """One scalar from the tasks' mean losses."""
        parts = [self._weights[task] * loss for task, loss in losses.items()]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

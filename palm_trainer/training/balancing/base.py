"""Interface of the balancing methods. Losses are means over the true counts of a step, by task."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from torch import Tensor

Scale: TypeAlias = Callable[[Tensor], Tensor]
"""Multiplies a loss so that fp16 gradients do not underflow (torch.amp.GradScaler.scale)."""


class Balancing(Protocol):
    """Combines the losses of several tasks in one step."""

    def backward(self, losses: Mapping[str, Tensor], scale: Scale, fraction: float = 1.0) -> None:
        """Add the gradients of one pass over a batch, or over a micro-batch, to those of the parameters.

        Args:
            losses: by task; for a micro-batch, its sums divided by the counts of the whole batch.
            scale: gradient scaler.
            fraction: the micro-batch's fraction of the examples.
        """

    def observe(self, losses: Mapping[str, float]) -> None:
        """Record the losses of a finished step."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything that later steps depend on: tensors, numbers, strings, lists and dicts."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""


def total(losses: Sequence[Tensor]) -> Tensor:
    """Sum scalars, in order."""
    result = losses[0]
    for loss in losses[1:]:
        result = result + loss
    return result


def weighted_sum(losses: Mapping[str, Tensor], weights: Mapping[str, float | Tensor]) -> Tensor:
    """Sum the losses of tasks, each times its weight."""
    weighted_losses = []
    for task, loss in losses.items():
        weighted_losses.append(weights[task] * loss)
    return total(weighted_losses)

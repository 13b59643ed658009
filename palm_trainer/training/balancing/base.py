"""What the training loop asks of a way to balance tasks. Losses are means over the true counts of a step, by task."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias

from torch import Tensor

Scale: TypeAlias = Callable[[Tensor], Tensor]
"""Multiplies a loss so that fp16 gradients do not vanish (torch.amp.GradScaler.scale)."""


class Balancing(Protocol):
    """How the losses of several tasks become one step."""

    def backward(self, losses: Mapping[str, Tensor], scale: Scale, share: float = 1.0) -> None:
        """Adds the gradients of one pass over a batch, or over a part of it, to those of the parameters.

        A part's losses are sums over the counts of the whole batch, and `share` is that of its examples.
        """

    def observe(self, losses: Mapping[str, float]) -> None:
        """Takes in the losses of a step that ended."""

    def state_dict(self) -> dict[str, Any]:
        """All that later steps depend on: tensors, numbers, strings, lists and dicts."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues where `state_dict` was taken."""


def total(parts: list[Tensor]) -> Tensor:
    """Sum of some scalars."""
    found = parts[0]
    for part in parts[1:]:
        found = found + part
    return found

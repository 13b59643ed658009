"""Exponential moving average of a model's parameters (Polyak and Juditsky 1992)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """Follows the parameters that train; `applied` puts the average in their place for evaluation and saving.

    Args:
        model: whose parameters are averaged.
        decay: share of the average that a step keeps. Young averages keep less, `(1 + steps) / (10 + steps)`, so that they forget the start.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._average = [p.detach().clone() for p in self._parameters]
        self._decay = decay
        self._steps = 0

    @torch.no_grad()
    def update(self) -> None:
        """Takes in the parameters after a step."""
        self._steps += 1
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        torch._foreach_lerp_(self._average, [p.detach() for p in self._parameters], 1.0 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model with averaged parameters; the trained ones are back at the end."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    @torch.no_grad()
    def swap(self) -> None:
        """Trades the parameters for their averages; again, and they are back."""
        for parameter, average in zip(self._parameters, self._average, strict=True):
            held: Tensor = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(held)

    def state_dict(self) -> dict[str, object]:
        """The averages and the number of steps in them."""
        return {"average": self._average, "steps": self._steps}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Continues an average."""
        average, steps = state["average"], state["steps"]
        assert isinstance(average, list)
        assert isinstance(steps, int)
        for own, saved in zip(self._average, average, strict=True):
            own.copy_(saved)
        self._steps = steps

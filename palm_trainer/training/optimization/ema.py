"""Exponential moving average of a model's parameters (Polyak and Juditsky 1992)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """Averages the trainable parameters. `applied` uses the average for evaluation and saving.

    Args:
        model: model whose parameters are averaged.
        decay: share of the average that each step keeps. The first steps keep less, `(1 + steps) /
            (10 + steps)`, so that the initial weights are forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._averages = [parameter.detach().clone() for parameter in self._parameters]
        self._decay = decay
        self._steps = 0

    @torch.no_grad()
    def update(self) -> None:
        """Update the average after a step."""
        self._steps += 1
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        torch._foreach_lerp_(self._averages, [parameter.detach() for parameter in self._parameters], 1.0 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Use the averaged parameters, and restore the trained ones at the end."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the parameters and their averages."""
        for parameter, average in zip(self._parameters, self._averages, strict=True):
            previous: Tensor = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(previous)

    def state_dict(self) -> dict[str, object]:
        """Return the averages and the number of steps."""
        return {"average": self._averages, "steps": self._steps}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Continue from a state."""
        saved_averages = state["average"]
        steps = state["steps"]
        assert isinstance(saved_averages, list)
        assert isinstance(steps, int)
        for average, saved in zip(self._averages, saved_averages, strict=True):
            average.copy_(saved)
        self._steps = steps

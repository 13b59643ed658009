"""Weights that are learnt as the tasks' uncertainty (Kendall et al. 2018, equation 10)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from palm_trainer.training.balancing.base import Scale, total


class Uncertainty:
    """sum over tasks of exp(-s) x mean loss + s / 2, where s = log(variance) of each task is learnt with the model, from 0.

    Left alone, s settles where the weight is 1 / (2 x loss).

    Args:
        tasks: their names.
        device: of the losses.
    """

    def __init__(self, tasks: Sequence[str], device: torch.device) -> None:
        self.log_variances = {task: nn.Parameter(torch.zeros((), device=device)) for task in tasks}

    def parameter_group(self, learning_rate: float) -> dict[str, Any]:
        """What the optimizer learns beside the model; weight decay would pull every weight to 1."""
        rates = {"lr": learning_rate, "peak_lr": learning_rate}
        return {"params": list(self.log_variances.values()), "weight_decay": 0.0, **rates}

    def backward(self, losses: Mapping[str, Tensor], scale: Scale, share: float = 1.0) -> None:
        """Adds the gradients of the weighted sum, those of the variances too."""
        own = {task: self.log_variances[task] for task in losses}
        scale(total([torch.exp(-own[task]) * loss + share * own[task] / 2 for task, loss in losses.items()])).backward()

    def observe(self, losses: Mapping[str, float]) -> None:
        """Nothing beyond the gradients."""

    def state_dict(self) -> dict[str, Any]:
        """The logarithms; their moments are the optimizer's."""
        return {task: float(value.detach()) for task, value in self.log_variances.items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues where `state_dict` was taken."""
        for task, value in self.log_variances.items():
            value.fill_(state[task])

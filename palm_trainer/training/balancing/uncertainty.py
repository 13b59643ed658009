"""Uncertainty weighting (Kendall et al. 2018, equation 10): weights are learnt as the uncertainty of the tasks."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from palm_trainer.training.balancing.base import Scale, total


class Uncertainty:
    """Sum over tasks of exp(-s) x mean loss + s / 2.

    s = log(variance) of each task is learnt with the model, from 0.

    For a constant loss, s converges to where the weight is 1 / (2 x loss).

    Args:
        tasks: names of the tasks.
        device: of the losses.
    """

    def __init__(self, tasks: Sequence[str], device: torch.device) -> None:
        self.log_variances = {task: nn.Parameter(torch.zeros((), device=device)) for task in tasks}

    def parameter_group(self, learning_rate: float) -> dict[str, Any]:
        """Return the optimizer's group of the variances.

        Weight decay would pull every weight to 1.
        """
        rates = {"lr": learning_rate, "peak_lr": learning_rate}
        return {"params": list(self.log_variances.values()), "weight_decay": 0.0, **rates}

    def backward(self, losses: Mapping[str, Tensor], scale: Scale, fraction: float = 1.0) -> None:
        """Add the gradients of the weighted sum, including those of the variances.

        Args:
            losses: by task; for a micro-batch, its sums divided by the counts of the whole batch.
            scale: gradient scaler.
            fraction: the micro-batch's fraction of the examples.
        """
        terms = []
        for task, loss in losses.items():
            log_variance = self.log_variances[task]
            terms.append(torch.exp(-log_variance) * loss + fraction * log_variance / 2)
        scale(total(terms)).backward()

    def observe(self, losses: Mapping[str, float]) -> None:
        """Do nothing: the optimizer updates the variances."""

    def state_dict(self) -> dict[str, Any]:
        """Return the logarithms. Their moments are in the state of the optimizer."""
        log_variances = {}
        for task, log_variance in self.log_variances.items():
            log_variances[task] = float(log_variance.detach())
        return log_variances

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""
        for task, log_variance in self.log_variances.items():
            log_variance.fill_(state[task])

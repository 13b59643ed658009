"""Base of the optimizers of the Python API: loss, peak learning rate and schedule."""

from typing import Any

import torch

from palm_trainer.config.section import MAX_RATE
from palm_trainer.errors import ConfigError
from palm_trainer.training.optimization.adamw import HEAD_RATE_FACTOR


class Optimizer:
    """Base of the optimizers. A subclass with `build` uses another optimizer of torch, or a custom one.

    Args:
        loss_var: from `build_forward` of the trainer whose `build_backward` gets this optimizer.
        lr: peak learning rate of the encoder.
        lr_schedualer: factor on the rates by step: a scheduler, or any function of the step. None: constant.

    Raises:
        ConfigError: a rate that is not above 0, or a schedule that is not a function.
    """

    max_grad_norm: float = 1.0
    layer_decay: float = 1.0
    freeze_layers: int = 0
    freeze_embeddings: bool = False

    def __init__(self, loss_var: Any, lr: float, lr_schedualer: Any = None) -> None:
        if not 0 < lr <= MAX_RATE:
            raise ConfigError(
                f"{type(self).__name__}: lr must be above 0 and at most {MAX_RATE}, got {lr}. Typical values for a pretrained encoder are 2e-5 to 1e-4."
            )
        if lr_schedualer is not None and not callable(lr_schedualer):
            raise ConfigError(
                f"{type(self).__name__}: lr_schedualer must be a function of the step, got {lr_schedualer!r}. Pass palm.lr_sched.TriangularScheduler(...)."
            )
        self.loss_var = loss_var
        self.lr = lr
        self.head_lr = HEAD_RATE_FACTOR * lr
        self.lr_schedualer = lr_schedualer
        self.current_lr = lr

    def sets(self, argument: str) -> bool:
        """Return True where an argument has another value than it has by default."""
        default = HEAD_RATE_FACTOR * self.lr if argument == "head_lr" else getattr(Optimizer, argument)
        return bool(getattr(self, argument) != default)

    def get_cur_learning_rate(self) -> float:
        """Return the rate of the encoder in the last step, or before the first the peak."""
        return self.current_lr

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return the optimizer of parameter groups with their `lr` and `weight_decay`. The schedule sets the `lr` of each."""
        raise NotImplementedError(f"{type(self).__name__} lacks build(groups), which returns a torch.optim.Optimizer.")

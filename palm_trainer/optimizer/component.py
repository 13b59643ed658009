"""The optimizer as the Python API declares it. The trainer builds torch's from it, once the heads exist."""

from typing import Any

from palm_trainer.errors import ConfigError

HEAD_RATE_FACTOR = 5.0
"""Rate of the heads over that of the encoder, unless the user says otherwise: heads start from nothing."""


class Adam:
    """AdamW on the loss that `build_forward` gave.

    Args:
        loss_var: from `build_forward` of the trainer whose `build_backward` gets this optimizer.
        lr: of the encoder, at its peak.
        lr_schedualer: factor on the rates by step: a scheduler, or any function of the step; None: constant.
        head_lr: of the heads, at its peak. None: 5 x `lr`, since heads start from nothing; PALM had `lr` for all.
        max_grad_norm: global norm that gradients are clipped to.
    """

    def __init__(
        self,
        loss_var: Any,
        lr: float,
        lr_schedualer: Any = None,
        *,
        head_lr: float | None = None,
        max_grad_norm: float = 1.0,
    ) -> None:
        if not lr > 0:
            raise ConfigError(f"Adam: lr is {lr}, but is above 0. 2e-5 to 1e-4 suit a pretrained encoder.")
        if lr_schedualer is not None and not callable(lr_schedualer):
            raise ConfigError(
                f"Adam: lr_schedualer is {lr_schedualer!r}, which is no function of the step. Pass palm.lr_sched.TriangularScheduler(...)."
            )
        self.loss_var = loss_var
        self.lr = lr
        self.head_lr = head_lr if head_lr is not None else HEAD_RATE_FACTOR * lr
        self.lr_schedualer = lr_schedualer
        self.max_grad_norm = max_grad_norm
        self.current_lr = lr

    def get_cur_learning_rate(self) -> float:
        """Rate of the encoder in the last step; the peak before the first."""
        return self.current_lr

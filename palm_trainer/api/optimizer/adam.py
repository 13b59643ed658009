"""The optimizer as the Python API declares it. The trainer builds torch's from it, once the heads exist."""

from typing import Any

from palm_trainer.api.optimizer.base_optimizer import Optimizer
from palm_trainer.errors import ConfigError


class Adam(Optimizer):
    """AdamW on the loss that `build_forward` gave.

    Args:
        loss_var: from `build_forward` of the trainer whose `build_backward` gets this optimizer.
        lr: of the encoder, at its peak.
        lr_schedualer: factor on the rates by step: a scheduler, or any function of the step; None: constant.
        head_lr: of the heads, at its peak. None: 5 x `lr`, since heads start from nothing; PALM had `lr` for all.
        max_grad_norm: global norm that gradients are clipped to.
        layer_decay: rate of a block of the encoder over that of the block above it; the embeddings are lowest. 1: one rate.
        freeze_layers: lowest blocks of the encoder that are not trained.
        freeze_embeddings: the encoder's embeddings are not trained.
    """

    def __init__(
        self,
        loss_var: Any,
        lr: float,
        lr_schedualer: Any = None,
        *,
        head_lr: float | None = None,
        max_grad_norm: float = 1.0,
        layer_decay: float = 1.0,
        freeze_layers: int = 0,
        freeze_embeddings: bool = False,
    ) -> None:
        super().__init__(loss_var, lr, lr_schedualer)
        if not 0.0 < layer_decay <= 1.0:
            raise ConfigError(
                f"Adam: layer_decay is {layer_decay}, but is above 0 and at most 1. 0.9 suits most encoders."
            )
        if freeze_layers < 0:
            raise ConfigError(f"Adam: freeze_layers is {freeze_layers}, but is 0 or more blocks.")
        if head_lr is not None:
            self.head_lr = head_lr
        self.max_grad_norm = max_grad_norm
        self.layer_decay = layer_decay
        self.freeze_layers = freeze_layers
        self.freeze_embeddings = freeze_embeddings


AdamW = Adam
"""The same: `build_backward` takes the weight decay, and it is decoupled."""

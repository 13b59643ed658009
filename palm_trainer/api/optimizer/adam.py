"""Declaration of AdamW, from which the trainer builds the optimizer once the heads exist."""

from typing import Any

from palm_trainer.api.optimizer.base_optimizer import Optimizer
from palm_trainer.errors import ConfigError


class Adam(Optimizer):
    """AdamW on the loss of `build_forward`.

    Args:
        loss_var: from `build_forward` of the trainer whose `build_backward` gets this optimizer.
        lr: peak learning rate of the encoder.
        lr_schedualer: factor on the rates by step: a scheduler, or any function of the step. None: constant.
        head_lr: peak learning rate of the heads. None: 5 x `lr`, since heads start from random weights. PALM used `lr`.
        max_grad_norm: global norm that gradients are clipped to.
        layer_decay: ratio of the rate of a block of the encoder to the rate of the block above it. 1: one rate.
        freeze_layers: number of lowest blocks of the encoder that are not trained.
        freeze_embeddings: do not train the embeddings of the encoder.
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
                f"Adam: layer_decay must be above 0 and at most 1, got {layer_decay}. A typical value is 0.9."
            )
        if freeze_layers < 0:
            raise ConfigError(f"Adam: freeze_layers must be at least 0, got {freeze_layers}.")
        if head_lr is not None:
            self.head_lr = head_lr
        self.max_grad_norm = max_grad_norm
        self.layer_decay = layer_decay
        self.freeze_layers = freeze_layers
        self.freeze_embeddings = freeze_embeddings


AdamW = Adam
"""Alias: the weight decay of `build_backward` is decoupled."""

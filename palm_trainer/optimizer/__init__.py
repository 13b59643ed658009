"""Component 5: optimizers."""

from palm_trainer.optimizer.adamw import build_adamw

__all__ = ["build_adamw"]

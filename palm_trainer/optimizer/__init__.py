"""Component 5: optimizers."""

from palm_trainer.optimizer import base_optimizer
from palm_trainer.optimizer.adamw import build_adamw
from palm_trainer.optimizer.base_optimizer import HEAD_RATE_FACTOR
from palm_trainer.optimizer.component import Adam, AdamW
from palm_trainer.optimizer.ema import Ema

__all__ = ["HEAD_RATE_FACTOR", "Adam", "AdamW", "Ema", "base_optimizer", "build_adamw"]

"""Component 5: optimizers."""

from palm_trainer.optimizer.adamw import build_adamw
from palm_trainer.optimizer.component import HEAD_RATE_FACTOR, Adam, AdamW
from palm_trainer.optimizer.ema import Ema

__all__ = ["HEAD_RATE_FACTOR", "Adam", "AdamW", "Ema", "build_adamw"]

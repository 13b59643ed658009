"""Optimizers of the Python API (`palm.optimizer`)."""

from palm_trainer.api.optimizer import base_optimizer
from palm_trainer.api.optimizer.adam import Adam, AdamW

__all__ = ["Adam", "AdamW", "base_optimizer"]

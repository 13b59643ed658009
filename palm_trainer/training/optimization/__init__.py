"""Optimizers, schedules of the learning rate, and the moving average of weights."""

from palm_trainer.training.optimization.adamw import HEAD_RATE_FACTOR, build_adamw
from palm_trainer.training.optimization.ema import Ema
from palm_trainer.training.optimization.schedules import SCHEDULES, Schedule, constant, cosine, linear, noam

__all__ = ["HEAD_RATE_FACTOR", "SCHEDULES", "Ema", "Schedule", "build_adamw", "constant", "cosine", "linear", "noam"]

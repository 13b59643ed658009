"""Mixing policies: the order in which data sets provide batches."""

from palm_trainer.training.mixing.base import Mixing
from palm_trainer.training.mixing.factory import make_mixing
from palm_trainer.training.mixing.loss_driven import LossDriven
from palm_trainer.training.mixing.planned import PlannedMixing
from palm_trainer.training.mixing.quotas import (
    annealed,
    mix_ratio,
    per_task_epochs,
    proportional,
    temperature,
    uniform,
)
from palm_trainer.training.mixing.round_robin import RoundRobin

__all__ = [
    "LossDriven",
    "Mixing",
    "PlannedMixing",
    "RoundRobin",
    "annealed",
    "make_mixing",
    "mix_ratio",
    "per_task_epochs",
    "proportional",
    "temperature",
    "uniform",
]

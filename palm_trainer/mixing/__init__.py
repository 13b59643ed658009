"""Which data set's batch comes next."""

from palm_trainer.mixing.base import Mixing
from palm_trainer.mixing.factory import make_mixing
from palm_trainer.mixing.loss_driven import LossDriven
from palm_trainer.mixing.planned import Planned
from palm_trainer.mixing.quotas import annealed, mix_ratio, per_task_epochs, proportional, temperature, uniform
from palm_trainer.mixing.round_robin import RoundRobin

__all__ = [
    "LossDriven",
    "Mixing",
    "Planned",
    "RoundRobin",
    "annealed",
    "make_mixing",
    "mix_ratio",
    "per_task_epochs",
    "proportional",
    "temperature",
    "uniform",
]

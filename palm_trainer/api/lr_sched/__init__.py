"""Learning-rate schedules of the Python API (`palm.lr_sched`)."""

from palm_trainer.api.lr_sched import base_schedualer
from palm_trainer.api.lr_sched.schedulers import (
    Planned,
    TriangularSchedualer,
    TriangularScheduler,
    WarmupSchedualer,
    WarmupScheduler,
)
from palm_trainer.training.optimization.schedules import SCHEDULES, Schedule, constant, cosine, linear, noam

__all__ = [
    "SCHEDULES",
    "Planned",
    "Schedule",
    "TriangularSchedualer",
    "TriangularScheduler",
    "WarmupSchedualer",
    "WarmupScheduler",
    "base_schedualer",
    "constant",
    "cosine",
    "linear",
    "noam",
]

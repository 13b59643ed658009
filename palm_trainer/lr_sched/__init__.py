"""Component 4: learning-rate schedules."""

from palm_trainer.lr_sched import base_schedualer
from palm_trainer.lr_sched.component import (
    Planned,
    TriangularSchedualer,
    TriangularScheduler,
    WarmupSchedualer,
    WarmupScheduler,
)
from palm_trainer.lr_sched.schedules import SCHEDULES, Schedule, constant, cosine, linear, noam

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

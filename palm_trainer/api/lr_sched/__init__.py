"""Learning-rate schedules of the Python API (`palm.lr_sched`)."""

from palm_trainer.api.lr_sched import base_schedualer
from palm_trainer.api.lr_sched.schedulers import (
    Planned,
    TriangularSchedualer,
    TriangularScheduler,
    WarmupSchedualer,
    WarmupScheduler,
)

__all__ = [
    "Planned",
    "TriangularSchedualer",
    "TriangularScheduler",
    "WarmupSchedualer",
    "WarmupScheduler",
    "base_schedualer",
]

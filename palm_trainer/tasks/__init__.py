"""Task kinds: one object for each, which holds everything that the trainer does differently for it."""

from palm_trainer.tasks.base import Judged, LearnContext, TaskKind
from palm_trainer.tasks.registry import is_scored, register_task_kind, task_kind, train_every_embedding

__all__ = [
    "Judged",
    "LearnContext",
    "TaskKind",
    "is_scored",
    "register_task_kind",
    "task_kind",
    "train_every_embedding",
]

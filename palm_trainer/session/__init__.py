"""What the trainers of the Python API share: tasks as declared, their wiring to the engine, training, saving and prediction."""

from palm_trainer.session.prediction import predict, write_predictions
from palm_trainer.session.saving import Saver
from palm_trainer.session.session import PRINT, Say, Session
from palm_trainer.session.task import Batch, LossVar, Task, TaskStep

__all__ = [
    "PRINT",
    "Batch",
    "LossVar",
    "Saver",
    "Say",
    "Session",
    "Task",
    "TaskStep",
    "predict",
    "write_predictions",
]

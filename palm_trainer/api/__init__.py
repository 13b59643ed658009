"""What the trainers of the Python API share: tasks as declared, their wiring to the engine, training, saving and prediction."""

from palm_trainer.api.declarations import Batch, LossVar, Task, TaskStep
from palm_trainer.api.prediction import predict, write_predictions
from palm_trainer.api.save_run import Saver
from palm_trainer.api.session import PRINT, Say, Session

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

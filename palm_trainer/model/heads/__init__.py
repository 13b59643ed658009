"""Output layers, one file a kind. `make_head` builds them."""

from palm_trainer.model.heads.base import IGNORE, LossSum, TaskHead
from palm_trainer.model.heads.factory import head_class, make_head, register_head

__all__ = ["IGNORE", "LossSum", "TaskHead", "head_class", "make_head", "register_head"]

"""Output layers, one file a kind. `make_head` builds them."""

from palm_trainer.model.heads.base import IGNORE, Head, LossSum
from palm_trainer.model.heads.factory import make_head

__all__ = ["IGNORE", "Head", "LossSum", "make_head"]

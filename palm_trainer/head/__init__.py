"""Component 3: output layers."""

from palm_trainer.head.base import IGNORE, Head, LossSum
from palm_trainer.head.classify import Classify
from palm_trainer.head.sequence_label import SequenceLabel

__all__ = ["IGNORE", "Classify", "Head", "LossSum", "SequenceLabel"]

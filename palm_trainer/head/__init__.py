"""Component 3: output layers.

`Classify`, `Match`, `SequenceLabel`, `MRC` and `MaskLM` are the declarations of the Python API (see component.py); the engine's heads of the
same names are in the files of this folder, and `make_head` (factory.py) builds them. `base_head.Head` is the base of heads that users write.
"""

from palm_trainer.head import base_head
from palm_trainer.head.base import IGNORE, Head, LossSum
from palm_trainer.head.component import MRC, Classify, DeclaredHead, MaskLM, Match, MultiLabel, SequenceLabel
from palm_trainer.head.factory import make_head

__all__ = [
    "IGNORE",
    "MRC",
    "Classify",
    "DeclaredHead",
    "Head",
    "LossSum",
    "MaskLM",
    "Match",
    "MultiLabel",
    "SequenceLabel",
    "base_head",
    "make_head",
]

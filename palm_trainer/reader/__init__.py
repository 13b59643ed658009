"""Component 1: from files to examples to batches."""

from palm_trainer.reader import base_reader
from palm_trainer.reader.component import (
    ClassifyReader,
    JointReader,
    MaskLMReader,
    MatchReader,
    MRCReader,
    SequenceLabelReader,
)

__all__ = [
    "ClassifyReader",
    "JointReader",
    "MRCReader",
    "MaskLMReader",
    "MatchReader",
    "SequenceLabelReader",
    "base_reader",
]

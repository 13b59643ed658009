"""Readers of the Python API (`palm.reader`)."""

from palm_trainer.api.reader import base_reader
from palm_trainer.api.reader.readers import (
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

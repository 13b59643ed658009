"""Component 1: from files to examples to batches."""

from palm_trainer.reader import base_reader
from palm_trainer.reader.component import ClassifyReader, JointReader, MatchReader, SequenceLabelReader

__all__ = ["ClassifyReader", "JointReader", "MatchReader", "SequenceLabelReader", "base_reader"]

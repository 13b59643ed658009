"""Heads of the Python API (`palm.head`): declarations, and `base_head.Head`, the base of heads that users write."""

from palm_trainer.api.head import base_head
from palm_trainer.api.head.heads import MRC, Classify, DeclaredHead, MaskLM, Match, MultiLabel, SequenceLabel

__all__ = ["MRC", "Classify", "DeclaredHead", "MaskLM", "Match", "MultiLabel", "SequenceLabel", "base_head"]

"""Backbones of the Python API (`palm.backbone`)."""

from palm_trainer.api.backbone import base_backbone
from palm_trainer.api.backbone.backbones import BERT, ERNIE, RoBERTa, XLNet
from palm_trainer.tokenization.encoder_files import locate_encoder as locate

__all__ = ["BERT", "ERNIE", "RoBERTa", "XLNet", "base_backbone", "locate"]

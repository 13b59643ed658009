"""Component 2: encoders."""

from palm_trainer.backbone import base_backbone
from palm_trainer.backbone.base import ActiveEmbedding, Backbone, freeze_unused_rows, thaw_rows
from palm_trainer.backbone.component import BERT, ERNIE, RoBERTa, XLNet
from palm_trainer.backbone.layers import EncoderLayers, encoder_layers, freeze, rate_factors
from palm_trainer.backbone.pretrained import LoadedEncoder, load_pretrained, locate, new_encoder
from palm_trainer.backbone.scratch import build_scratch
from palm_trainer.backbone.weights import WeightsReport, load_weights

__all__ = [
    "BERT",
    "ERNIE",
    "ActiveEmbedding",
    "Backbone",
    "EncoderLayers",
    "LoadedEncoder",
    "RoBERTa",
    "WeightsReport",
    "XLNet",
    "base_backbone",
    "build_scratch",
    "encoder_layers",
    "freeze",
    "freeze_unused_rows",
    "load_pretrained",
    "load_weights",
    "locate",
    "new_encoder",
    "rate_factors",
    "thaw_rows",
]

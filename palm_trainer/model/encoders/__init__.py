"""Encoders: loaded with pretrained weights, or built from scratch."""

from palm_trainer.model.encoders.active_embedding import ActiveEmbedding, freeze_unused_rows, unfreeze_rows
from palm_trainer.model.encoders.copy_weights import WeightsReport, load_weights
from palm_trainer.model.encoders.encoder import Encoder
from palm_trainer.model.encoders.from_scratch import build_scratch
from palm_trainer.model.encoders.layers import EncoderLayers, encoder_layers, freeze_layers, rate_factors
from palm_trainer.model.encoders.load_pretrained import LoadedEncoder, load_pretrained, new_encoder

__all__ = [
    "ActiveEmbedding",
    "Encoder",
    "EncoderLayers",
    "LoadedEncoder",
    "WeightsReport",
    "build_scratch",
    "encoder_layers",
    "freeze_layers",
    "freeze_unused_rows",
    "load_pretrained",
    "load_weights",
    "new_encoder",
    "rate_factors",
    "unfreeze_rows",
]

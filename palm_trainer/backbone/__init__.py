"""Component 2: encoders."""

from palm_trainer.backbone.base import ActiveEmbedding, Backbone, freeze_unused_rows
from palm_trainer.backbone.pretrained import LoadedEncoder, load_pretrained, locate
from palm_trainer.backbone.scratch import build_scratch

__all__ = [
    "ActiveEmbedding",
    "Backbone",
    "LoadedEncoder",
    "build_scratch",
    "freeze_unused_rows",
    "load_pretrained",
    "locate",
]

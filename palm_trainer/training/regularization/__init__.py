"""Regularization methods. All are off by default."""

from palm_trainer.training.regularization.adversarial import AdversarialNoise
from palm_trainer.training.regularization.anchor import Anchor
from palm_trainer.training.regularization.base import Drift, Regularization
from palm_trainer.training.regularization.packed_dropout import PackedDropout
from palm_trainer.training.regularization.r_drop import agreement_loss
from palm_trainer.training.regularization.word_dropout import WordDropout

__all__ = ["AdversarialNoise", "Anchor", "Drift", "PackedDropout", "Regularization", "WordDropout", "agreement_loss"]

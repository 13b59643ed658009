"""All that a training is regularized with, beside dropout and weight decay."""

from dataclasses import dataclass

from palm_trainer.training.regularization.adversarial import AdversarialNoise
from palm_trainer.training.regularization.word_dropout import WordDropout


@dataclass(frozen=True)
class Regularization:
    """Weight of R-Drop (see `r_drop`), noise on the embeddings, and hidden pieces; 0 or None: off."""

    r_drop: float = 0.0
    noise: AdversarialNoise | None = None
    word_dropout: WordDropout | None = None

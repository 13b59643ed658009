"""Settings of the regularization methods, besides dropout and weight decay."""

from dataclasses import dataclass

from palm_trainer.training.regularization.adversarial import AdversarialNoise
from palm_trainer.training.regularization.anchor import Anchor
from palm_trainer.training.regularization.word_dropout import WordDropout


@dataclass(frozen=True)
class Regularization:
    """Regularization methods of a training. 0 or None: off.

    Args:
        r_drop: weight of the divergence in R-Drop.
        noise: adversarial noise on the embeddings.
        word_dropout: dropout of input tokens.
        anchor: distance from the encoder at the start.
    """

    r_drop: float = 0.0
    noise: AdversarialNoise | None = None
    word_dropout: WordDropout | None = None
    anchor: Anchor | None = None

"""Settings of the regularization methods, besides dropout and weight decay."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from palm_trainer.training.regularization.adversarial import AdversarialNoise
from palm_trainer.training.regularization.word_dropout import WordDropout


class Drift(Protocol):
    """A loss of the encoder that needs no label."""

    def loss(self, inputs: Mapping[str, Tensor], features: Mapping[str, Tensor]) -> Tensor:
        """Return the loss of a batch, a mean over it.

        Args:
            inputs: of the encoder, by name.
            features: that the encoder makes of them, by name.
        """


@dataclass(frozen=True)
class Regularization:
    """Regularization methods of a training. 0 or None: off.

    Args:
        r_drop: weight of the divergence in R-Drop.
        noise: adversarial noise on the embeddings.
        word_dropout: dropout of input tokens.
        drifts: losses of the encoder alone: the distance from the encoder at the start, or from that of a teacher.
    """

    r_drop: float = 0.0
    noise: AdversarialNoise | None = None
    word_dropout: WordDropout | None = None
    drifts: tuple[Drift, ...] = ()

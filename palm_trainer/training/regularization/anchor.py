"""Anchor: what a pretrained encoder makes of a text stays near what it made of it before the training.

An encoder whose text vectors were learned from many texts loses part of that while new heads, random at first, train it.
The cosine distance between the old and the new vector is a loss that needs no label.
"""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from palm_trainer.tensors import POOLED_OUTPUT


class Anchor:
    """Holds the encoder as it was at the start.

    Args:
        encoder: is copied, in eval mode, on the device that it is on.
        weight: of the distance in the loss.
    """

    def __init__(self, encoder: nn.Module, weight: float) -> None:
        self._start = copy.deepcopy(encoder).eval().requires_grad_(False)
        self._weight = weight

    def loss(self, inputs: Mapping[str, Tensor], features: Mapping[str, Tensor]) -> Tensor:
        """Return the weight times the mean over a batch of 1 - cosine.

        Args:
            inputs: of the encoder, by name.
            features: that the trained encoder makes of them, with `pooled_output` [batch, hidden].
        """
        with torch.no_grad():
            start = self._start(**inputs)[POOLED_OUTPUT.name]
        cosine = F.cosine_similarity(features[POOLED_OUTPUT.name].float(), start.float(), dim=1)
        return self._weight * (1 - cosine).mean()

"""One class a text, by the cosine between the text's vector and a vector of each class.

A class vector starts at the mean of the class's training texts (see `runs/class_vectors.py`), so that the head answers
before the first step as the nearest mean does. A linear layer starts at random, and needs hundreds of steps.
"""

import copy
import math
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from palm_trainer.model.heads.classify import ClassifyHead
from palm_trainer.tensors import to_full_precision

START_SCALE = 20.0
"""First factor of the cosines: with it, a class that is nearer by 0.1 is 7 times as probable."""
_ROWS = 32
"""The class vectors are filled up with zeros to a multiple of it, so that a class more changes no bit of another logit. The processor multiplies
different numbers of columns in different orders: without it 57 of 392 shapes differed in the last digit, with it none."""


class CosineLayer(nn.Module):
    """`scale` x cosine of the input and each row of `weight`.

    Args:
        input_dim: H.
        num_classes: C.
    """

    def __init__(self, input_dim: int, num_classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_classes, input_dim) / math.sqrt(input_dim))
        self.scale = nn.Parameter(torch.tensor(START_SCALE))

    def forward(self, vectors: Tensor) -> Tensor:
        """[B, H] -> [B, C], in float32 also under autocast: cosines differ in the digits that bf16 lacks."""
        with torch.autocast(vectors.device.type, enabled=False):
            units = F.normalize(to_full_precision(vectors), dim=1)
            return F.linear(units, F.pad(self.matrix(), (0, 0, 0, -len(self.weight) % _ROWS)))[:, : len(self.weight)]

    def matrix(self) -> Tensor:
        """Return the class vectors with length `scale`, [C, H]."""
        return self.scale * F.normalize(self.weight, dim=1)


class FixedCosineLayer(nn.Module):
    """A `CosineLayer` with its scaled rows of length 1 as one matrix [H, C], for export."""

    def __init__(self, layer: CosineLayer) -> None:
        super().__init__()
        with torch.no_grad():
            self.register_buffer("matrix", layer.matrix().T.contiguous())
        self.matrix: Tensor

    def forward(self, vectors: Tensor) -> Tensor:
        """[B, H] -> [B, C]."""
        return F.normalize(vectors, dim=1) @ self.matrix


class PrototypeHead(ClassifyHead):
    """Cosines of the text's vector and a vector of each class, times a learnt factor.

    Dropout on the input turns the vector, which a cosine sees whole. It is off unless it is asked for.
    """

    variant = "prototype"
    linear: CosineLayer

    @staticmethod
    def make_layer(input_dim: int, num_classes: int) -> CosineLayer:
        """Return a layer with random class vectors."""
        return CosineLayer(input_dim, num_classes)

    @torch.no_grad()
    def start_at(self, vectors: Tensor) -> None:
        """Set the class vectors [C, H]."""
        self.linear.weight.copy_(vectors)

    @torch.no_grad()
    def with_class(self, vector: Tensor, mean: Tensor | None = None) -> Self:
        """Return the head with one more class, the last. All that it holds of the others stays.

        Args:
            vector: of the class, [H].
            mean: of the class for the Mahalanobis score, [H]. None: the head has no statistics.
        """
        classes, width = self.linear.weight.shape
        statistics = dict(self.named_buffers())
        head = type(self)(
            classes + 1,
            width,
            self.dropout.p,
            label_smoothing=self.label_smoothing,
            statistics=bool(statistics),
        )
        head.start_at(torch.cat([self.linear.weight, vector[None]]))
        head.linear.scale.copy_(self.linear.scale)
        if mean is not None:
            statistics["means"] = torch.cat([statistics["means"], mean[None]])
        for role, buffer in statistics.items():
            head.get_buffer(role).copy_(buffer)
        return head.train(self.training)

    def exported(self) -> Self:
        """Return a copy whose class vectors are one matrix, scaled and of length 1."""
        head = copy.deepcopy(self)
        head.linear = FixedCosineLayer(self.linear)  # type: ignore[assignment]
        return head

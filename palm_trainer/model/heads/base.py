"""Component 3: output layers. A head turns a backbone's vectors into logits, and logits with targets into a loss.

Losses come as a sum and the count that it runs over (examples, pieces), never as a mean: the loop divides by the true count of the whole
step, so that accumulation, several processes and partial labels give the gradient of one large batch.
"""

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from palm_serve.bundle.manifest import Kind
from palm_trainer.tensors import IGNORE, TensorSpec

__all__ = ["IGNORE", "Head", "LossSum"]


class LossSum(NamedTuple):
    """A summed loss and the number of labels in it."""

    total: Tensor
    labels: Tensor


class Head(nn.Module):
    """Base of the heads. `inputs` are the backbone's tensors that it reads; `tensors` the names of its own, in graph order."""

    kind: ClassVar[Kind]
    inputs: ClassVar[tuple[TensorSpec, ...]]
    tensors: tuple[str, ...] = ("logits",)

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The head's tensors by name, float32."""
        raise NotImplementedError

    def labels(self, targets: Tensor) -> Tensor:
        """Number of labels in the targets: what `loss` sums over, known before the forward pass."""
        return (targets != IGNORE).sum()

    def loss(self, outputs: Mapping[str, Tensor], targets: Tensor) -> LossSum:
        """Sum of the losses of all labelled targets, and their number."""
        raise NotImplementedError

    def decode_arrays(self) -> dict[str, npt.NDArray[np.float32]]:
        """Parameters that decoding needs beside the graph (CRF transitions), by role."""
        return {}

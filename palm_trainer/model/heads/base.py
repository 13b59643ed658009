"""Component 3: output layers. A head turns a backbone's vectors into logits, and logits with targets into a loss.

Losses come as a sum and the count that it runs over (examples, pieces), never as a mean: the loop divides by the true count of the whole
step, so that accumulation, several processes and partial labels give the gradient of one large batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from palm_serve.bundle.manifest import Kind, TaskInfo
from palm_serve.types import Encoding
from palm_trainer.model.heads.divergences import has_soft_target
from palm_trainer.tensors import IGNORE, TensorSpec

__all__ = ["IGNORE", "HeadSettings", "LossSum", "SoftTargets", "TaskHead"]

SoftTargets = npt.NDArray[np.float32]
"""A teacher's probabilities for one feature of the data."""


@dataclass(frozen=True)
class HeadSettings:
    """Sizes and training options of a head, which its manifest entry does not hold. See `make_head`."""

    task: str
    input_dim: int
    dropout: float = 0.1
    label_smoothing: float = 0.0
    margin: float = 0.5
    embedding: tuple[int, int] | None = None
    given_classes: int = 0


class LossSum(NamedTuple):
    """A summed loss and the number of labels in it."""

    total: Tensor
    labels: Tensor


class TaskHead(nn.Module):
    """Base of the heads. `inputs` are the backbone's tensors that it reads; `tensors` the names of its own, in graph order."""

    kind: ClassVar[Kind]
    variant: ClassVar[str] = ""
    """Name among several heads of one kind. Empty for the usual head."""
    inputs: ClassVar[tuple[TensorSpec, ...]]
    tensors: tuple[str, ...] = ("logits",)
    learnt_buffers: ClassVar[frozenset[str]] = frozenset()
    """Names of the buffers that are learnt from the data of a run, so that a training that starts from it makes its own."""
    corrupts_inputs: ClassVar[bool] = False
    """True where the task's own target hides pieces of the text, so that nothing else may change it."""

    @classmethod
    def from_task(cls, info: TaskInfo, settings: HeadSettings) -> Self:
        """Build the head of a task from its manifest entry."""
        raise NotImplementedError

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The head's tensors by name, float32."""
        raise NotImplementedError

    def labels(self, targets: Tensor) -> Tensor:
        """Number of labels in the targets: what `loss` sums over, known before the forward pass."""
        return (targets != IGNORE).sum()

    def loss(self, outputs: Mapping[str, Tensor], targets: Tensor) -> LossSum:
        """Sum of the losses of all labelled targets, and their number."""
        raise NotImplementedError

    def divergence(self, first: Mapping[str, Tensor], second: Mapping[str, Tensor], targets: Tensor) -> Tensor:
        """Symmetric Kullback-Leibler divergence of two passes, summed over what the loss is summed over.

        Args:
            first: the head's tensors by name, from one pass.
            second: the same from the other pass.
            targets: of the batch, as `loss` takes them; what is unlabelled adds nothing.
        """
        raise NotImplementedError

    def count_soft_targets(self, soft: Tensor) -> int:
        """Number of examples, windows or pieces that a teacher has answered: what `soft_divergence` sums over."""
        return int(has_soft_target(soft).sum())

    def soft_divergence(self, outputs: Mapping[str, Tensor], soft: Tensor, temperature: float) -> Tensor:
        """Summed Kullback-Leibler divergence of the head's answers from soft targets.

        Args:
            outputs: the head's tensors by name.
            soft: probabilities at the temperature, below 0 where no teacher has answered. Shapes are `[batch, labels]`,
                `[batch, 2]` for a ranker's pair and its negative, `[batch, tokens, tags]`, and `[batch, tokens, 2]`
                for start and end.
            temperature: divisor of the logits.
        """
        raise NotImplementedError

    def soft_targets(
        self,
        outputs: Mapping[str, Tensor],
        columns: Sequence[int],
        encodings: Sequence[Encoding],
        temperature: float,
    ) -> list[SoftTargets]:
        """Return a teacher's probabilities for the rows of a batch, one array per feature.

        Args:
            outputs: the head's tensors by name.
            columns: positions of the student's labels among the head's own; the other labels are left out.
            encodings: rows of the batch.
            temperature: divisor of the logits.
        """
        raise NotImplementedError

    def exported(self) -> "TaskHead":
        """Return the head that is traced into the graph: with the same outputs, and nothing computed from weights alone."""
        return self

    def decode_arrays(self) -> dict[str, npt.NDArray[np.float32]]:
        """Parameters that decoding needs beside the graph (CRF transitions), by role."""
        return {}

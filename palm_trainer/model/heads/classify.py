"""One class a text, by a linear layer. The head by class vectors stands in `prototype.py`."""

import math
from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from palm_serve.bundle.manifest import TaskInfo
from palm_serve.types import Encoding
from palm_trainer.model.heads.base import IGNORE, HeadSettings, LossSum, SoftTargets, TaskHead
from palm_trainer.model.heads.divergences import has_soft_target, softmax_divergence, softmax_divergence_from
from palm_trainer.tensors import NO_CLASS, POOLED_OUTPUT, to_full_precision


class ClassifyHead(TaskHead):
    """Dropout and a linear layer on the text's vector.

    Args:
        num_classes: C.
        input_dim: H of the backbone.
        dropout_prob: on the input, while training.
        label_smoothing: share of the probability that is spread over all classes (Szegedy et al. 2016).
        statistics: holds statistics of its features (zeros, until `with_statistics`) for the Mahalanobis score, and gives the features themselves
            beside the logits.
    """

    kind = "classify"
    inputs = (POOLED_OUTPUT,)
    learnt_buffers = frozenset({"centre", "whitening", "means"})

    def __init__(
        self,
        num_classes: int,
        input_dim: int,
        dropout_prob: float = 0.1,
        *,
        label_smoothing: float = 0.0,
        statistics: bool = False,
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout_prob)
        self.linear = self.make_layer(input_dim, num_classes)
        self.label_smoothing = label_smoothing
        if statistics:
            self.tensors = ("logits", "features")
            for role, shape in _shapes(num_classes, input_dim).items():
                self.register_buffer(role, torch.zeros(shape))

    @classmethod
    def from_task(cls, info: TaskInfo, settings: HeadSettings) -> Self:
        """Build the head, with room for statistics where the out-of-scope score needs them."""
        return cls(
            len(info.labels),
            settings.input_dim,
            settings.dropout,
            label_smoothing=settings.label_smoothing,
            statistics=info.calibration.out_of_scope == "mahalanobis",
        )

    @staticmethod
    def make_layer(input_dim: int, num_classes: int) -> nn.Module:
        """Return the layer that makes logits [B, C] of vectors [B, H], with `weight` [C, H]."""
        layer = nn.Linear(input_dim, num_classes)
        nn.init.normal_(layer.weight, std=0.02)
        nn.init.zeros_(layer.bias)
        return layer

    def with_statistics(self, arrays: Mapping[str, npt.NDArray[np.float32]]) -> "ClassifyHead":
        """The head with the same layer, and statistics by role: `centre` [H], `whitening` [H, H], `means` [C, H]."""
        weight = self.linear.get_parameter("weight")
        classes, width = weight.shape
        head = type(self)(classes, width, self.dropout.p, label_smoothing=self.label_smoothing, statistics=True)
        head.linear = self.linear
        for role in _shapes(classes, width):
            head.register_buffer(role, torch.from_numpy(arrays[role]).to(weight.device))
        return head.train(self.training)

    def decode_arrays(self) -> dict[str, npt.NDArray[np.float32]]:
        """The statistics, by role."""
        arrays = {}
        for role, buffer in self.named_buffers():
            arrays[role] = buffer.float().cpu().numpy()
        return arrays

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`pooled_output` [B, H] -> `logits` [B, C], and with statistics `features` [B, H]."""
        pooled = features[POOLED_OUTPUT.name]
        logits = self.linear(self.dropout(pooled))
        return {"logits": logits, "features": pooled} if "features" in self.tensors else {"logits": logits}

    def loss(self, outputs: Mapping[str, Tensor], targets: Tensor) -> LossSum:
        """Cross-entropy; targets int64 [B], IGNORE where unlabelled. Counts examples.

        Rows of NO_CLASS add their divergence from equal probabilities for all classes (Hendrycks et al. 2019).
        """
        logits = to_full_precision(outputs["logits"])
        no_class = targets == NO_CLASS
        total = F.cross_entropy(
            logits,
            targets.masked_fill(no_class, IGNORE),
            ignore_index=IGNORE,
            reduction="sum",
            label_smoothing=self.label_smoothing,
        )
        log_probabilities = logits[no_class].log_softmax(dim=-1)
        total = total - (log_probabilities.mean(dim=-1) + math.log(logits.shape[-1])).sum()
        return LossSum(total, self.labels(targets))

    def divergence(self, first: Mapping[str, Tensor], second: Mapping[str, Tensor], targets: Tensor) -> Tensor:
        """Symmetric divergence of two passes over the labelled examples.

        Args:
            first: tensors of the head by name, from one pass.
            second: tensors of the head from the other pass.
            targets: int64 `[batch]`, IGNORE where unlabelled.
        """
        labelled = targets != IGNORE
        return softmax_divergence(
            to_full_precision(first["logits"])[labelled], to_full_precision(second["logits"])[labelled]
        )

    def soft_divergence(self, outputs: Mapping[str, Tensor], soft: Tensor, temperature: float) -> Tensor:
        """Divergence from soft targets [B, C].

        Args:
            outputs: tensors of the head by name.
            soft: probabilities `[batch, labels]`, below 0 where no teacher has answered.
            temperature: divisor of the logits.
        """
        logits = to_full_precision(outputs["logits"]) / temperature
        taught = has_soft_target(soft)
        return softmax_divergence_from(soft.to(logits.dtype)[taught], logits[taught])

    def soft_targets(
        self,
        outputs: Mapping[str, Tensor],
        columns: Sequence[int],
        encodings: Sequence[Encoding],
        temperature: float,
    ) -> list[SoftTargets]:
        """Return the probabilities of the student's classes, [C] for each row.

        Args:
            outputs: tensors of the head by name.
            columns: positions of the student's labels among the labels of the head.
            encodings: rows of the batch.
            temperature: divisor of the logits.
        """
        logits = outputs["logits"].float() / temperature
        return list(logits[:, list(columns)].softmax(dim=1).cpu().numpy())


def _shapes(classes: int, width: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the statistics by role."""
    return {"centre": (width,), "whitening": (width, width), "means": (classes, width)}

"""Do two texts match? A class a pair (pointwise), or a score that ranks pairs (pairwise)."""

from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from palm_serve.bundle.manifest import TaskInfo
from palm_serve.types import Encoding
from palm_trainer.model.heads.base import IGNORE, HeadSettings, LossSum, SoftTargets, TaskHead
from palm_trainer.model.heads.divergences import (
    has_soft_target,
    sigmoid_divergence,
    sigmoid_divergence_from,
    softmax_divergence,
    softmax_divergence_from,
)
from palm_trainer.tensors import POOLED_OUTPUT, to_full_precision


class MatchHead(TaskHead):
    """Dropout and a linear layer on the vector of the two texts, read together.

    Args:
        num_classes: C; 0 for a ranker, which has one logit.
        input_dim: H of the backbone.
        dropout_prob: on the input, while training.
        label_smoothing: pointwise; share of the probability that is spread over all classes.
        margin: pairwise; by how much the score of a pair (0 to 1) should exceed that of its negative.
    """

    kind = "match"
    inputs = (POOLED_OUTPUT,)

    def __init__(
        self,
        num_classes: int,
        input_dim: int,
        dropout_prob: float = 0.1,
        *,
        label_smoothing: float = 0.0,
        margin: float = 0.5,
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout_prob)
        self.linear = nn.Linear(input_dim, max(num_classes, 1))
        self.pairwise = num_classes == 0
        self.label_smoothing = label_smoothing
        self.margin = margin
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    @classmethod
    def from_task(cls, info: TaskInfo, settings: HeadSettings) -> Self:
        """Build the head: of a ranker where the task has no labels."""
        return cls(
            len(info.labels),
            settings.input_dim,
            settings.dropout,
            label_smoothing=settings.label_smoothing,
            margin=settings.margin,
        )

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`pooled_output` [B, H] -> `logits` [B, C], of a ranker [B, 1]."""
        return {"logits": self.linear(self.dropout(features[POOLED_OUTPUT.name]))}

    def loss(self, outputs: Mapping[str, Tensor], targets: Tensor) -> LossSum:
        """Pointwise: cross-entropy; targets int64 [B], IGNORE where unlabelled. Counts pairs.

        Pairwise: max(0, margin - score + negative's score), with logits [2B, 1] of which each second row is the negative of the one before.
        """
        logits = to_full_precision(outputs["logits"])
        if self.pairwise:
            positive, negative = torch.sigmoid(logits).view(-1, 2).unbind(dim=1)
            counted = targets != IGNORE
            return LossSum((F.relu(self.margin - positive + negative) * counted).sum(), self.labels(targets))
        total = F.cross_entropy(
            logits, targets, ignore_index=IGNORE, reduction="sum", label_smoothing=self.label_smoothing
        )
        return LossSum(total, self.labels(targets))

    def divergence(self, first: Mapping[str, Tensor], second: Mapping[str, Tensor], targets: Tensor) -> Tensor:
        """Symmetric divergence of two passes over the labelled pairs; of a ranker over each pair and its negative.

        Args:
            first: tensors of the head by name, from one pass.
            second: tensors of the head from the other pass.
            targets: int64 `[batch]`, IGNORE where unlabelled.
        """
        labelled = targets != IGNORE
        logits = to_full_precision(first["logits"])
        other_logits = to_full_precision(second["logits"])
        if self.pairwise:
            rows = labelled.repeat_interleave(2)
            return sigmoid_divergence(logits[rows], other_logits[rows])
        return softmax_divergence(logits[labelled], other_logits[labelled])

    def soft_divergence(self, outputs: Mapping[str, Tensor], soft: Tensor, temperature: float) -> Tensor:
        """Divergence from soft targets [B, C]; of a ranker [B, 2] for each pair and its negative.

        Args:
            outputs: tensors of the head by name.
            soft: probabilities `[batch, labels]`, or `[batch, 2]` for a ranker, below 0 where no teacher has answered.
            temperature: divisor of the logits.
        """
        logits = to_full_precision(outputs["logits"]) / temperature
        soft = soft.to(logits.dtype)
        taught = has_soft_target(soft)
        if self.pairwise:
            return sigmoid_divergence_from(soft[taught], logits.view_as(soft)[taught])
        return softmax_divergence_from(soft[taught], logits[taught])

    def soft_targets(
        self,
        outputs: Mapping[str, Tensor],
        columns: Sequence[int],
        encodings: Sequence[Encoding],
        temperature: float,
    ) -> list[SoftTargets]:
        """Return the probabilities of the student's classes, [C] for each row; of a ranker [2] for each pair.

        Args:
            outputs: tensors of the head by name.
            columns: positions of the student's labels among the labels of the head.
            encodings: rows of the batch.
            temperature: divisor of the logits.
        """
        logits = outputs["logits"].float() / temperature
        if self.pairwise:
            return list(logits.view(-1, 2).sigmoid().cpu().numpy())
        return list(logits[:, list(columns)].softmax(dim=1).cpu().numpy())

"""Do two texts match? A class a pair (pointwise), or a score that ranks pairs (pairwise)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from palm_trainer.model.heads.base import IGNORE, Head, LossSum
from palm_trainer.tensors import POOLED_OUTPUT, to_full_precision


class Match(Head):
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

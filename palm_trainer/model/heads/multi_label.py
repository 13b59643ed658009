"""Any number of classes a text: several intents."""

import math
from collections.abc import Mapping, Sequence
from typing import Self

from torch import Tensor, nn
from torch.nn import functional as F

from palm_serve.bundle.manifest import TaskInfo
from palm_serve.types import Encoding
from palm_trainer.model.heads.base import IGNORE, HeadSettings, LossSum, SoftTargets, TaskHead
from palm_trainer.model.heads.divergences import has_soft_target, sigmoid_divergence, sigmoid_divergence_from
from palm_trainer.tensors import POOLED_OUTPUT, to_full_precision


class MultiLabelHead(TaskHead):
    """Dropout and a linear layer on the text's vector; a sigmoid a class.

    Args:
        num_classes: C.
        input_dim: H of the backbone.
        dropout_prob: on the input, while training.
    """

    kind = "multi_label"
    inputs = (POOLED_OUTPUT,)

    def __init__(self, num_classes: int, input_dim: int, dropout_prob: float = 0.1) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout_prob)
        self.linear = nn.Linear(input_dim, num_classes)
        nn.init.normal_(self.linear.weight, std=0.02)
        # One class of the C is expected at first, as in a softmax (Lin et al. 2017, 4.1): else the C sigmoids' loss would drown other tasks.
        nn.init.constant_(self.linear.bias, -math.log(max(num_classes - 1, 1)))

    @classmethod
    def from_task(cls, info: TaskInfo, settings: HeadSettings) -> Self:
        """Build the head for the task's classes."""
        return cls(len(info.labels), settings.input_dim, settings.dropout)

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`pooled_output` [B, H] -> `logits` [B, C]."""
        return {"logits": self.linear(self.dropout(features[POOLED_OUTPUT.name]))}

    def labels(self, targets: Tensor) -> Tensor:
        """Number of examples with a label; targets int64 [B, C], a row all IGNORE where there is none."""
        return (targets[:, 0] != IGNORE).sum()

    def loss(self, outputs: Mapping[str, Tensor], targets: Tensor) -> LossSum:
        """Binary cross-entropy, summed over the classes; targets int64 [B, C] of 0 and 1, IGNORE where unlabelled. Counts examples.

        Summed, a class's logit gets the gradient that it gets in a softmax (probability minus target), whatever C is.
        """
        labelled, logits = targets != IGNORE, to_full_precision(outputs["logits"])
        losses = F.binary_cross_entropy_with_logits(logits, targets.clamp(min=0).to(logits.dtype), reduction="none")
        return LossSum((losses * labelled).sum(), self.labels(targets))

    def divergence(self, first: Mapping[str, Tensor], second: Mapping[str, Tensor], targets: Tensor) -> Tensor:
        """Symmetric divergence of two passes over the labelled examples, summed over the classes.

        Args:
            first: tensors of the head by name, from one pass.
            second: tensors of the head from the other pass.
            targets: int64 `[batch, labels]` of 0 and 1, IGNORE where unlabelled.
        """
        labelled = targets[:, 0] != IGNORE
        return sigmoid_divergence(
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
        return sigmoid_divergence_from(soft.to(logits.dtype)[taught], logits[taught])

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
        return list(logits[:, list(columns)].sigmoid().cpu().numpy())

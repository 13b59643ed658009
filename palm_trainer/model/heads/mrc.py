"""Reading comprehension: where in the passage the answer begins and ends."""

from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from palm_serve.bundle.manifest import TaskInfo
from palm_serve.decoding.mrc import null_position, passage_range
from palm_serve.types import Encoding
from palm_trainer.model.heads.base import IGNORE, HeadSettings, LossSum, SoftTargets, TaskHead
from palm_trainer.model.heads.divergences import (
    IMPOSSIBLE,
    has_soft_target,
    softmax_divergence,
    softmax_divergence_from,
)
from palm_trainer.tensors import NO_SOFT_TARGET, SEQUENCE_OUTPUT, to_full_precision


class MrcHead(TaskHead):
    """Dropout and a linear layer on each piece's vector: one logit for the beginning, one for the end (Devlin et al. 2019, 4.2).

    Args:
        input_dim: H of the backbone.
        dropout_prob: on the input, while training.
    """

    kind = "mrc"
    inputs = (SEQUENCE_OUTPUT,)
    tensors = ("start_logits", "end_logits")

    def __init__(self, input_dim: int, dropout_prob: float = 0.1) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout_prob)
        self.linear = nn.Linear(input_dim, 2)
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    @classmethod
    def from_task(cls, info: TaskInfo, settings: HeadSettings) -> Self:
        """Build the head."""
        return cls(settings.input_dim, settings.dropout)

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`sequence_output` [B, S, H] -> `start_logits` and `end_logits` [B, S]."""
        logits = self.linear(self.dropout(features[SEQUENCE_OUTPUT.name]))
        return {"start_logits": logits[:, :, 0], "end_logits": logits[:, :, 1]}

    def labels(self, targets: Tensor) -> Tensor:
        """Number of windows with a label; targets int64 [B, 5], of which the first is the beginning."""
        return (targets[:, 0] != IGNORE).sum()

    def loss(self, outputs: Mapping[str, Tensor], targets: Tensor) -> LossSum:
        """Mean of the cross-entropies of beginning and end, over the passage and "no answer" only: the question and padding cannot be chosen.

        Targets int64 [B, 5], see `reader.mrc.Place`. Counts windows.
        """
        start, end = targets[:, 0], targets[:, 1]
        allowed = _allowed_places(targets, outputs["start_logits"].shape[1])
        losses = []
        for name, target in (("start_logits", start), ("end_logits", end)):
            logits = to_full_precision(outputs[name]).masked_fill(~allowed, -torch.inf)
            losses.append(F.cross_entropy(logits, target, ignore_index=IGNORE, reduction="sum"))
        return LossSum((losses[0] + losses[1]) / 2, self.labels(targets))

    def divergence(self, first: Mapping[str, Tensor], second: Mapping[str, Tensor], targets: Tensor) -> Tensor:
        """Mean of the symmetric divergences of start and end, over the labelled windows.

        Args:
            first: tensors of the head by name, from one pass.
            second: tensors of the head from the other pass.
            targets: int64 `[batch, 5]`, IGNORE where unlabelled.
        """
        allowed = _allowed_places(targets, first["start_logits"].shape[1])
        labelled = targets[:, 0] != IGNORE
        divergences = []
        for name in self.tensors:
            logits = to_full_precision(first[name]).masked_fill(~allowed, IMPOSSIBLE)
            other_logits = to_full_precision(second[name]).masked_fill(~allowed, IMPOSSIBLE)
            divergences.append(softmax_divergence(logits[labelled], other_logits[labelled]))
        return (divergences[0] + divergences[1]) / 2

    def count_soft_targets(self, soft: Tensor) -> int:
        """Number of windows that a teacher has answered."""
        return int(has_soft_target(soft).any(dim=1).sum())

    def soft_divergence(self, outputs: Mapping[str, Tensor], soft: Tensor, temperature: float) -> Tensor:
        """Mean of the divergences of start and end from soft targets [B, S, 2], over the places of an answer.

        Args:
            outputs: tensors of the head by name.
            soft: probabilities of start and end, `[batch, tokens, 2]`, below 0 where no teacher has answered.
            temperature: divisor of the logits.
        """
        allowed = has_soft_target(soft)
        answered = allowed.any(dim=1)
        divergences = []
        for axis, name in enumerate(self.tensors):
            logits = to_full_precision(outputs[name]) / temperature
            probabilities = soft[:, :, axis].clamp(min=0).to(logits.dtype)
            masked = logits.masked_fill(~allowed, IMPOSSIBLE)
            divergences.append(softmax_divergence_from(probabilities[answered], masked[answered]))
        return (divergences[0] + divergences[1]) / 2

    def soft_targets(
        self,
        outputs: Mapping[str, Tensor],
        columns: Sequence[int],
        encodings: Sequence[Encoding],
        temperature: float,
    ) -> list[SoftTargets]:
        """Return the probabilities of start and end, [tokens, 2] for each row.

        Args:
            outputs: tensors of the head by name.
            columns: positions of the student's labels among the labels of the head.
            encodings: rows of the batch.
            temperature: divisor of the logits.
        """
        stacked = torch.stack([outputs[name].float() for name in self.tensors], dim=2) / temperature
        return [_place_probabilities(row, encoding) for row, encoding in zip(stacked, encodings, strict=True)]


def _allowed_places(targets: Tensor, length: int) -> Tensor:
    """Mark the pieces that may start or end an answer, bool [B, S]; targets int64 [B, 5], see `Place`."""
    first, after, null = targets[:, 2], targets[:, 3], targets[:, 4]
    position = torch.arange(length, device=targets.device)
    return (position >= first[:, None]) & (position < after[:, None]) | (position == null[:, None])


def _place_probabilities(logits: Tensor, encoding: Encoding) -> SoftTargets:
    """Return probabilities over the passage and "no answer", [tokens of the row, 2], from logits [S, 2]."""
    first, after = passage_range(encoding)
    allowed = sorted({*range(first, after), null_position(encoding)})
    probabilities = np.full((len(encoding), 2), NO_SOFT_TARGET, dtype=np.float32)
    probabilities[allowed] = logits[allowed].softmax(dim=0).cpu().numpy()
    return probabilities

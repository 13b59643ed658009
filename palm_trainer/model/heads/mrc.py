"""Reading comprehension: where in the passage the answer begins and ends."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from palm_trainer.model.heads.base import IGNORE, Head, LossSum
from palm_trainer.tensors import SEQUENCE_OUTPUT, to_full_precision


class MRC(Head):
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
        start, end, first, after, null = targets.unbind(dim=1)
        position = torch.arange(outputs["start_logits"].shape[1], device=targets.device)
        allowed = (position >= first[:, None]) & (position < after[:, None]) | (position == null[:, None])
        total = sum(
            F.cross_entropy(
                to_full_precision(outputs[name]).masked_fill(~allowed, -torch.inf),
                target,
                ignore_index=IGNORE,
                reduction="sum",
            )
            for name, target in (("start_logits", start), ("end_logits", end))
        )
        return LossSum(torch.as_tensor(total) / 2, self.labels(targets))

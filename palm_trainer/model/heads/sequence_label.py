"""One tag a piece: slots and entities."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from palm_trainer.model.heads.base import IGNORE, Head, LossSum
from palm_trainer.model.heads.crf import LinearChainCrf
from palm_trainer.tensors import SEQUENCE_OUTPUT, to_full_precision


class SequenceLabel(Head):
    """Dropout, a linear layer on each piece's vector, and a CRF over the tags (or a softmax).

    Args:
        tags: T tags in BIO, `O` among them.
        input_dim: H of the backbone.
        dropout_prob: on the input, while training.
        crf: linear-chain CRF; else a softmax on each piece.
    """

    kind = "sequence_label"
    inputs = (SEQUENCE_OUTPUT,)

    def __init__(self, tags: tuple[str, ...], input_dim: int, dropout_prob: float = 0.1, *, crf: bool = True) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout_prob)
        self.linear = nn.Linear(input_dim, len(tags))
        self.crf = LinearChainCrf(tags) if crf else None
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`sequence_output` [B, S, H] -> `logits` [B, S, T] (emissions)."""
        return {"logits": self.linear(self.dropout(features[SEQUENCE_OUTPUT.name]))}

    def loss(self, outputs: Mapping[str, Tensor], targets: Tensor) -> LossSum:
        """Negative log-likelihood of the tags; targets int64 [B, S], IGNORE on special tokens and padding. Counts pieces."""
        emissions = to_full_precision(outputs["logits"])
        tagged = targets != IGNORE
        if self.crf is None:
            return LossSum(
                F.cross_entropy(emissions.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="sum"),
                self.labels(targets),
            )
        index, lengths = left_aligned(tagged)
        aligned = emissions.gather(1, index.unsqueeze(2).expand(-1, -1, emissions.shape[2]))
        total = self.crf.negative_log_likelihood(aligned, targets.gather(1, index), lengths)
        return LossSum(total, self.labels(targets))

    def decode_arrays(self) -> dict[str, npt.NDArray[np.float32]]:
        """Learned scores of the chain: `start` [T], `transitions` [T, T], `end` [T]."""
        if self.crf is None:
            return {}
        return {name: getattr(self.crf, name).detach().cpu().numpy().copy() for name in ("start", "transitions", "end")}


def left_aligned(tagged: Tensor) -> tuple[Tensor, Tensor]:
    """Where the tagged pieces of each row are, which stand together: bool [B, S] -> positions int64 [B, L] (anything beyond a row's end), lengths [B]."""
    lengths = tagged.sum(dim=1)
    first = tagged.int().argmax(dim=1)
    longest = max(int(lengths.max()), 1)
    index = (first[:, None] + torch.arange(longest, device=tagged.device)).clamp(max=tagged.shape[1] - 1)
    return index, lengths

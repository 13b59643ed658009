"""One tag a piece: slots and entities."""

import copy
from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from palm_serve.bundle.manifest import TaskInfo
from palm_serve.decoding.sequence_label import tagged_range
from palm_serve.types import Encoding
from palm_trainer.model.heads.base import IGNORE, HeadSettings, LossSum, SoftTargets, TaskHead
from palm_trainer.model.heads.crf import LinearChainCrf
from palm_trainer.model.heads.divergences import has_soft_target, softmax_divergence, softmax_divergence_from
from palm_trainer.tensors import NO_SOFT_TARGET, SEQUENCE_OUTPUT, to_full_precision


class SequenceLabelHead(TaskHead):
    """Dropout, a linear layer on each piece's vector, and a CRF over the tags (or a softmax).

    Args:
        tags: T tags in BIO, `O` among them.
        input_dim: H of the backbone.
        dropout_prob: on the input, while training.
        crf: linear-chain CRF; else a softmax on each piece.
        given_classes: C of the task that the tags are decoded given. 0: there is none.
    """

    kind = "sequence_label"
    inputs = (SEQUENCE_OUTPUT,)
    learnt_buffers = frozenset({"given"})

    def __init__(
        self,
        tags: tuple[str, ...],
        input_dim: int,
        dropout_prob: float = 0.1,
        *,
        crf: bool = True,
        given_classes: int = 0,
    ) -> None:
        super().__init__()
        if given_classes:
            self.register_buffer("given", torch.ones(given_classes, len(tags)))
        self.dropout = nn.Dropout(dropout_prob)
        self.linear = nn.Linear(input_dim, len(tags))
        self.crf = LinearChainCrf(tags) if crf else None
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    @classmethod
    def from_task(cls, info: TaskInfo, settings: HeadSettings) -> Self:
        """Build the head for the task's tags."""
        return cls(
            info.labels,
            settings.input_dim,
            settings.dropout,
            crf=info.decode.crf,
            given_classes=settings.given_classes,
        )

    @torch.no_grad()
    def allow(self, allowed: npt.NDArray[np.float32]) -> None:
        """Set which tags each class of the given task can have: 1 or 0, [C, T]."""
        self.get_buffer("given").copy_(torch.from_numpy(allowed))

    def with_given_class(self) -> Self:
        """Return the head with one more class of the given task, the last, which allows all tags."""
        head = copy.deepcopy(self)
        allowed = self.get_buffer("given")
        head.register_buffer("given", torch.cat([allowed, torch.ones_like(allowed[:1])]))
        return head

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

    def divergence(self, first: Mapping[str, Tensor], second: Mapping[str, Tensor], targets: Tensor) -> Tensor:
        """Symmetric divergence of the emissions of two passes, over the tagged pieces.

        Args:
            first: tensors of the head by name, from one pass.
            second: tensors of the head from the other pass.
            targets: int64 `[batch, tokens]`, IGNORE on special tokens and padding.
        """
        tagged = targets != IGNORE
        return softmax_divergence(
            to_full_precision(first["logits"])[tagged], to_full_precision(second["logits"])[tagged]
        )

    def soft_divergence(self, outputs: Mapping[str, Tensor], soft: Tensor, temperature: float) -> Tensor:
        """Divergence of the chain, or of each piece's softmax, from soft targets [B, S, T].

        Args:
            outputs: tensors of the head by name.
            soft: probabilities `[batch, tokens, tags]`, below 0 where no teacher has answered.
            temperature: divisor of the logits.
        """
        logits = to_full_precision(outputs["logits"]) / temperature
        taught = has_soft_target(soft)
        soft = soft.to(logits.dtype)
        if self.crf is None:
            return softmax_divergence_from(soft[taught], logits[taught])
        index, lengths = left_aligned(taught)
        places = index.unsqueeze(2).expand(-1, -1, soft.shape[2])
        return self.crf.divergence(logits.gather(1, places), soft.gather(1, places), lengths, temperature)

    def soft_targets(
        self,
        outputs: Mapping[str, Tensor],
        columns: Sequence[int],
        encodings: Sequence[Encoding],
        temperature: float,
    ) -> list[SoftTargets]:
        """Return token marginals of the chain, or each piece's softmax, [tokens, T] for each row.

        Args:
            outputs: tensors of the head by name.
            columns: positions of the student's labels among the labels of the head.
            encodings: rows of the batch.
            temperature: divisor of the logits.
        """
        logits = outputs["logits"].float()
        ranges = [tagged_range(encoding) for encoding in encodings]
        tagged = torch.zeros(logits.shape[:2], dtype=torch.bool)
        for row, (first, after) in enumerate(ranges):
            tagged[row, first:after] = True
        index, lengths = left_aligned(tagged.to(logits.device))
        pieces = logits.gather(1, index.unsqueeze(2).expand(-1, -1, logits.shape[2])) / temperature
        tags = pieces.softmax(dim=2) if self.crf is None else self.crf.marginals(pieces, lengths, temperature)[0]
        tags = tags[:, :, list(columns)].double()
        tags = (tags / tags.sum(dim=2, keepdim=True).clamp(min=1e-300)).float().cpu()
        features = []
        for probabilities, encoding, (first, after) in zip(tags.numpy(), encodings, ranges, strict=True):
            feature = np.full((len(encoding), len(columns)), NO_SOFT_TARGET, dtype=np.float32)
            feature[first:after] = probabilities[: after - first]
            features.append(feature)
        return features

    def decode_arrays(self) -> dict[str, npt.NDArray[np.float32]]:
        """Learned scores of the chain: `start` [T], `transitions` [T, T], `end` [T]. Tags of each class: `given` [C, T]."""
        tensors = dict(self.named_buffers(recurse=False))
        if self.crf is not None:
            tensors.update(self.crf.named_parameters())
        arrays = {}
        for name, tensor in tensors.items():
            arrays[name] = tensor.detach().cpu().numpy().copy()
        return arrays


def left_aligned(tagged: Tensor) -> tuple[Tensor, Tensor]:
    """Return the positions of the tagged tokens of each row, which stand together.

    Args:
        tagged: bool [B, S].

    Returns:
        Positions int64 [B, L] (anything beyond a row's end), and lengths [B].
    """
    lengths = tagged.sum(dim=1)
    first = tagged.int().argmax(dim=1)
    longest = max(int(lengths.max()), 1)
    index = (first[:, None] + torch.arange(longest, device=tagged.device)).clamp(max=tagged.shape[1] - 1)
    return index, lengths

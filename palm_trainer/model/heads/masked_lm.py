"""Guessing masked pieces: an auxiliary task, which shapes the encoder with plain text. It is trained only, never exported."""

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from palm_serve.bundle.manifest import TaskInfo
from palm_trainer.errors import WiringError
from palm_trainer.model.heads.base import IGNORE, HeadSettings, LossSum, TaskHead
from palm_trainer.tensors import EMBEDDING_TABLE, SEQUENCE_OUTPUT, to_full_precision


class MaskedLmHead(TaskHead):
    """A dense layer, GELU, normalization, and the encoder's own embedding table as decoder (Devlin et al. 2019, as in BERT's code).

    Args:
        input_dim: H of the backbone.
        vocab_size: V, rows of the embedding table.
        embedding_dim: E, its columns (H in most encoders).
        dropout_prob: on the input, while training.
    """

    kind = "masked_lm"
    inputs = (SEQUENCE_OUTPUT, EMBEDDING_TABLE)
    tensors = ("hidden", "embedding_table")
    corrupts_inputs = True

    def __init__(self, input_dim: int, vocab_size: int, embedding_dim: int, dropout_prob: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout_prob)
        self.linear = nn.Linear(input_dim, embedding_dim)
        self.norm = nn.LayerNorm(embedding_dim)
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    @classmethod
    def from_task(cls, info: TaskInfo, settings: HeadSettings) -> Self:
        """Build the head. Raise WiringError without the shape of the embedding table."""
        if settings.embedding is None:
            raise WiringError(
                f"task '{settings.task}': a masked_lm head decodes with the embedding table; give make_head its shape."
            )
        return cls(settings.input_dim, *settings.embedding, dropout_prob=settings.dropout)

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`hidden` [B, S, H] and `embedding_table` [V, E], as the backbone gives them: only the loss knows which positions to decode."""
        return {"hidden": features[SEQUENCE_OUTPUT.name], "embedding_table": features[EMBEDDING_TABLE.name]}

    def loss(self, outputs: Mapping[str, Tensor], targets: Tensor) -> LossSum:
        """Cross-entropy over the vocabulary at the masked positions; targets int64 [B, S], IGNORE elsewhere. Counts masked pieces."""
        masked = targets != IGNORE
        hidden = self.dropout(to_full_precision(outputs["hidden"][masked]))  # [M, H]
        guessed = self.norm(F.gelu(self.linear(hidden)))  # [M, E]
        logits = F.linear(guessed, to_full_precision(outputs["embedding_table"]), self.bias)  # [M, V]
        return LossSum(F.cross_entropy(logits, targets[masked], reduction="sum"), self.labels(targets))

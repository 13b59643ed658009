"""Convolutions between the embeddings and the blocks of an encoder that is trained from nothing: its neighbours need not be learnt by attention."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertEmbeddings


class ConvolvedEmbeddings(BertEmbeddings):
    """BERT's embeddings, then `count` residual convolutions over three pieces. Padding is zero to all of them, so that it changes nothing.

    Attention over learnt positions needs much text to learn what stands beside what; a convolution knows it (README, "from scratch", for what was
    seen on ATIS). A block is `LayerNorm(x + Dropout(GELU(Conv(x))))`.
    """

    def __init__(self, config: BertConfig, count: int) -> None:
        super().__init__(config)  # type: ignore[no-untyped-call]
        self.padding = int(config.pad_token_id or 0)
        # a Sequential, since a ModuleList is what tells the encoder's blocks
        self.convolutions = nn.Sequential(*(_Convolution(config) for _ in range(count)))

    def forward(self, input_ids: Tensor, **others: Any) -> Tensor:  # type: ignore[override]  # from ids alone: they tell padding
        """int64 [B, S] -> [B, S, H]."""
        hidden: Tensor = super().forward(input_ids=input_ids, **others)  # type: ignore[arg-type]
        mask = (input_ids != self.padding).unsqueeze(-1).to(hidden.dtype)
        for convolution in self.convolutions:
            hidden = convolution(hidden, mask)
        return hidden


class _Convolution(nn.Module):
    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.mix = nn.Conv1d(width, width, kernel_size=3, padding=1)
        self.LayerNorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """[B, S, H] and [B, S, 1] -> [B, S, H]."""
        mixed = self.mix((hidden * mask).transpose(1, 2)).transpose(1, 2)
        normed: Tensor = self.LayerNorm(hidden + self.dropout(torch.nn.functional.gelu(mixed)))
        return normed

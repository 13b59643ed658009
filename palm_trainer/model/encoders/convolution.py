"""Convolutions between the embeddings and the blocks of an encoder from scratch."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertEmbeddings


class ConvolvedEmbeddings(BertEmbeddings):
    """BERT's embeddings, followed by `count` residual convolutions over three tokens.

    Padding counts as zero, so it has no effect.

    Attention over learnt positions needs much text to learn adjacency, which a convolution has
    built in. `docs/benchmarks/quality.md` has results on ATIS. A block is `LayerNorm(x +
    Dropout(GELU(Conv(x))))`.
    """

    def __init__(self, config: BertConfig, count: int) -> None:
        super().__init__(config)  # type: ignore[no-untyped-call]
        self.padding = int(config.pad_token_id or 0)
        # A Sequential, since a ModuleList would be taken for the blocks of the encoder.
        self.convolutions = nn.Sequential(*(_Convolution(config) for _ in range(count)))

    def forward(self, input_ids: Tensor, **arguments: Any) -> Tensor:  # type: ignore[override]  # ids tell padding
        """Return the embeddings of int64 [batch, tokens], [batch, tokens, hidden]."""
        hidden: Tensor = super().forward(input_ids=input_ids, **arguments)  # type: ignore[arg-type]
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
        """Convolve [batch, tokens, hidden] with the mask [batch, tokens, 1]; the shape stays."""
        convolved = self.mix((hidden * mask).transpose(1, 2)).transpose(1, 2)
        normalized: Tensor = self.LayerNorm(hidden + self.dropout(torch.nn.functional.gelu(convolved)))
        return normalized

"""Component 2: encoders. A backbone turns token ids into one vector a piece and one vector a text."""

import inspect
from typing import Any, Literal

from torch import Tensor, nn

from palm_trainer.tensors import (
    ATTENTION_MASK,
    EMBEDDING_TABLE,
    INPUT_IDS,
    PALM_NAMES,
    POOLED_OUTPUT,
    SEQUENCE_OUTPUT,
    TOKEN_TYPE_IDS,
    TensorSpec,
)

Pooling = Literal["cls", "mean"]
Features = dict[str, Tensor]


class Encoder(nn.Module):
    """Wraps a Hugging Face encoder.

    Args:
        encoder: any encoder whose output has `last_hidden_state`.
        pooling: the text's vector is that of the classification token (`cls`: the first piece, in XLNet the last) or the mean over
            unmasked pieces (`mean`).
        takes_types: whether the encoder takes `token_type_ids`.
    """

    outputs: tuple[TensorSpec, ...] = (SEQUENCE_OUTPUT, POOLED_OUTPUT, EMBEDDING_TABLE)

    def __init__(self, encoder: nn.Module, *, pooling: Pooling, takes_types: bool) -> None:
        super().__init__()
        self.encoder = encoder
        self.pooling = pooling
        self._cls_is_last = getattr(encoder.config, "summary_type", "first") == "last"
        self.inputs: tuple[TensorSpec, ...] = (INPUT_IDS, ATTENTION_MASK, *((TOKEN_TYPE_IDS,) if takes_types else ()))

    @property
    def hidden_size(self) -> int:
        """Width of the vectors."""
        return int(self.encoder.config.hidden_size)  # type: ignore[union-attr,arg-type]

    @property
    def max_length(self) -> int | None:
        """Tokens that it has positions for; None: as many as you like (XLNet)."""
        table = self._positions
        if table is not None:  # RoBERTa's begin behind that of padding: a table of 514 is for 512 tokens
            return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
        limit = int(getattr(self.encoder.config, "max_position_embeddings", None) or 0)
        return limit if limit > 0 else None

    @property
    def pad_token_id(self) -> int | None:
        """The id that it must be padded with, since its positions leave that out (RoBERTa); None: any will do under a mask."""
        return None if self._positions is None else self._positions.padding_idx

    @property
    def _positions(self) -> nn.Embedding | None:
        tables = (m for name, m in self.encoder.named_modules() if name.endswith("position_embeddings"))
        return next((table for table in tables if isinstance(table, nn.Embedding)), None)

    @property
    def embedding_table(self) -> Tensor:
        """The word embeddings, [V, E]; E is the hidden size in most encoders. Not trained while an ActiveEmbedding stands in its place."""
        table: Tensor = self.encoder.get_input_embeddings().weight  # type: ignore[operator]
        return table

    @property
    def inputs_attr(self) -> dict[str, list[Any]]:
        """What it takes from a reader, as PALM declares it: name -> [shape, dtype]; -1 is variable."""
        return {PALM_NAMES[spec.name]: [[-1, -1], spec.dtype] for spec in self.inputs}

    @property
    def outputs_attr(self) -> dict[str, list[Any]]:
        """What it gives to a head, as PALM declares it."""
        width = self.hidden_size
        return {
            "encoder_outputs": [[-1, -1, width], "float32"],
            "sentence_embedding": [[-1, width], "float32"],
            "sentence_pair_embedding": [[-1, width], "float32"],
        }

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Features:
        """int64 [B, S] each -> `sequence_output` [B, S, H], `pooled_output` [B, H] and `embedding_table` [V, E]."""
        arguments = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            arguments["token_type_ids"] = token_type_ids
        hidden: Tensor = self.encoder(**arguments).last_hidden_state
        return {
            SEQUENCE_OUTPUT.name: hidden,
            POOLED_OUTPUT.name: self._pool(hidden, attention_mask),
            EMBEDDING_TABLE.name: self.embedding_table,
        }

    def _pool(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        if self.pooling == "cls" and self._cls_is_last:
            last = (attention_mask.sum(dim=1) - 1).clamp(min=0)  # (B); padding is on the right
            return hidden.gather(1, last[:, None, None].expand(-1, 1, hidden.shape[2])).squeeze(1)
        if self.pooling == "cls":
            return hidden[:, 0]
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)


def takes_types(encoder: nn.Module) -> bool:
    """Whether an encoder tells a text from its pair by `token_type_ids`: it takes them, and has more than one."""
    taken = "token_type_ids" in inspect.signature(encoder.forward).parameters
    # XLNet has no number of types: it asks only whether two pieces are of the same
    return taken and getattr(encoder.config, "type_vocab_size", 2) > 1

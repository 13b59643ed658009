"""Encoders: token ids to one vector for each token and one vector for the text."""

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
        pooling: the text's vector is that of the classification token (`cls`: the first token, in
            XLNet the last) or the mean over unmasked tokens (`mean`).
        takes_types: True if the encoder takes `token_type_ids`.

    Attributes:
        cls_is_last: True if the classification token is the last one (XLNet).
    """

    outputs: tuple[TensorSpec, ...] = (SEQUENCE_OUTPUT, POOLED_OUTPUT, EMBEDDING_TABLE)

    def __init__(self, encoder: nn.Module, *, pooling: Pooling, takes_types: bool) -> None:
        super().__init__()
        self.encoder = encoder
        self.pooling: Pooling = pooling
        self.cls_is_last = getattr(encoder.config, "summary_type", "first") == "last"
        self.inputs: tuple[TensorSpec, ...] = (INPUT_IDS, ATTENTION_MASK, *((TOKEN_TYPE_IDS,) if takes_types else ()))

    @property
    def hidden_size(self) -> int:
        """Size of the vectors."""
        return int(self.encoder.config.hidden_size)  # type: ignore[union-attr,arg-type]

    @property
    def max_length(self) -> int | None:
        """Maximum number of tokens; None: unlimited (XLNet)."""
        table = self._positions
        if table is not None:  # RoBERTa's positions start after that of padding: a table of 514 is for 512 tokens
            return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
        limit = int(getattr(self.encoder.config, "max_position_embeddings", None) or 0)
        return limit if limit > 0 else None

    @property
    def pad_token_id(self) -> int | None:
        """Id required for padding, since its positions skip it (RoBERTa); None: any id under a mask."""
        return None if self._positions is None else self._positions.padding_idx

    @property
    def _positions(self) -> nn.Embedding | None:
        """Table of absolute positions, if there is one."""
        for name, module in self.encoder.named_modules():
            if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
                return module
        return None

    @property
    def embedding_table(self) -> Tensor:
        """Word embeddings, [vocabulary, embedding]; as large as the hidden size in most encoders.

        The table is not trained while an ActiveEmbedding replaces it.
        """
        table: Tensor = self.encoder.get_input_embeddings().weight  # type: ignore[operator]
        return table

    @property
    def inputs_attr(self) -> dict[str, list[Any]]:
        """Inputs in PALM's declaration: name -> [shape, dtype]; -1 is variable."""
        declarations = {}
        for spec in self.inputs:
            declarations[PALM_NAMES[spec.name]] = [[-1, -1], spec.dtype]
        return declarations

    @property
    def outputs_attr(self) -> dict[str, list[Any]]:
        """Outputs in PALM's declaration."""
        width = self.hidden_size
        return {
            "encoder_outputs": [[-1, -1, width], "float32"],
            "sentence_embedding": [[-1, width], "float32"],
            "sentence_pair_embedding": [[-1, width], "float32"],
        }

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Features:
        """Encode a batch.

        Args:
            input_ids: int64 [batch, tokens].
            attention_mask: int64 [batch, tokens].
            token_type_ids: int64 [batch, tokens], if the encoder takes types.

        Returns:
            `sequence_output` [batch, tokens, hidden], `pooled_output` [batch, hidden], and
            `embedding_table`.
        """
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
        """Return the vector of each text, [batch, hidden]."""
        if self.pooling == "cls" and self.cls_is_last:
            last = (attention_mask.sum(dim=1) - 1).clamp(min=0)  # [batch]; padding is on the right
            return hidden.gather(1, last[:, None, None].expand(-1, 1, hidden.shape[2])).squeeze(1)
        if self.pooling == "cls":
            return hidden[:, 0]
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)


def takes_types(encoder: nn.Module) -> bool:
    """Return True if an encoder takes `token_type_ids` and has several types."""
    has_argument = "token_type_ids" in inspect.signature(encoder.forward).parameters
    # XLNet has no number of types, since it only compares the types of two tokens.
    return has_argument and getattr(encoder.config, "type_vocab_size", 2) > 1

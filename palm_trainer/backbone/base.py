"""Component 2: encoders. A backbone turns token ids into one vector a piece and one vector a text."""

import inspect
from typing import Any, Literal

import torch
from torch import Tensor, nn

from palm_trainer.specs import (
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


class Backbone(nn.Module):
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


class ActiveEmbedding(nn.Module):
    """An embedding table of which only the rows in use are trained; the mathematics of dense training, at a fraction of its cost.

    A row whose id never occurs in the training data gets a zero gradient in every step. With an optimizer that moves only what has a
    gradient (Adam without weight decay on embeddings), training just the other rows is the same computation. The full table stays for
    evaluation and is what `state_dict` holds.

    Args:
        table: the full embedding, [V, H].
        active_ids: the ids in use, sorted, int64 [A].
    """

    def __init__(self, table: nn.Embedding, active_ids: Tensor) -> None:
        super().__init__()
        self.padding_idx = table.padding_idx
        self.register_buffer("weight", table.weight.detach().clone())
        self.register_buffer("active_ids", active_ids, persistent=False)
        position = torch.full((table.num_embeddings,), -1, dtype=torch.int64)
        position[active_ids] = torch.arange(len(active_ids))
        padding = -1 if table.padding_idx is None else int(position[table.padding_idx])
        self._active_padding = padding if padding >= 0 else None  # its row gets no gradient, as in nn.Embedding
        self.register_buffer("position", position, persistent=False)
        self.active = nn.Parameter(table.weight.detach()[active_ids].clone())
        self._register_state_dict_hook(_whole_table)  # type: ignore[no-untyped-call]

    weight: Tensor
    active_ids: Tensor
    position: Tensor

    def forward(self, ids: Tensor) -> Tensor:
        """Embeddings of `ids`, [..., H]. While training every id must be active."""
        if self.training:
            return nn.functional.embedding(self.position[ids], self.active, padding_idx=self._active_padding)
        self.sync()
        return nn.functional.embedding(ids, self.weight)

    @torch.no_grad()
    def sync(self) -> None:
        """Copies the trained rows into the full table."""
        self.weight[self.active_ids] = self.active

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: object) -> None:
        weight = state_dict[prefix + "weight"]
        state_dict[prefix + "active"] = weight[self.active_ids.to(weight.device)]
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _whole_table(module: ActiveEmbedding, state_dict: dict[str, Tensor], prefix: str, _metadata: object) -> None:
    """state_dict hook: the saved form is the plain embedding's, one `weight`."""
    module.sync()
    state_dict[prefix + "weight"] = module.weight
    state_dict.pop(prefix + "active", None)


def freeze_unused_rows(backbone: Backbone, active_ids: Tensor) -> None:
    """Replaces the word embedding by an ActiveEmbedding over the ids that the training data holds."""
    table = backbone.encoder.get_input_embeddings()  # type: ignore[operator]
    active = ActiveEmbedding(table, active_ids).train(table.training)
    backbone.encoder.set_input_embeddings(active)  # type: ignore[operator]


def thaw_rows(backbone: Backbone) -> None:
    """Puts a plain embedding, with what was trained, in the place of an ActiveEmbedding."""
    table = backbone.encoder.get_input_embeddings()  # type: ignore[operator]
    if isinstance(table, ActiveEmbedding):
        table.sync()
        plain = nn.Embedding.from_pretrained(table.weight.clone(), freeze=False, padding_idx=table.padding_idx)
        backbone.encoder.set_input_embeddings(plain.train(table.training))  # type: ignore[operator]

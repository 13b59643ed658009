"""Embedding tables in which only the rows that the data uses are trained."""

import torch
from torch import Tensor, nn

from palm_trainer.model.encoders.encoder import Encoder


class ActiveEmbedding(nn.Module):
    """An embedding table in which only the rows in use are trained.

    The results are those of dense training, at a fraction of its cost.

    A row whose id does not occur in the training data has a zero gradient in every step. With an
    optimizer that changes only parameters with a gradient (Adam without weight decay on
    embeddings), training only the other rows is the same computation. The full table is used for
    evaluation and stored in `state_dict`.

    Args:
        table: the full embedding, [vocabulary, embedding].
        active_ids: sorted ids in use, int64 [ids].
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
        self._register_state_dict_hook(_store_full_table)  # type: ignore[no-untyped-call]

    weight: Tensor
    active_ids: Tensor
    position: Tensor

    def forward(self, ids: Tensor) -> Tensor:
        """Return the embeddings of `ids`, [..., embedding].

        In training mode every id must be active.
        """
        if self.training:
            return nn.functional.embedding(self.position[ids], self.active, padding_idx=self._active_padding)
        self.sync()
        return nn.functional.embedding(ids, self.weight)

    @torch.no_grad()
    def sync(self) -> None:
        """Copy the trained rows into the full table."""
        self.weight[self.active_ids] = self.active

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *arguments: object) -> None:
        weight = state_dict[prefix + "weight"]
        state_dict[prefix + "active"] = weight[self.active_ids.to(weight.device)]
        super()._load_from_state_dict(state_dict, prefix, *arguments)


def _store_full_table(module: ActiveEmbedding, state_dict: dict[str, Tensor], prefix: str, _metadata: object) -> None:
    """Store a single `weight`, as a plain embedding does (a state_dict hook)."""
    module.sync()
    state_dict[prefix + "weight"] = module.weight
    state_dict.pop(prefix + "active", None)


def freeze_unused_rows(backbone: Encoder, active_ids: Tensor) -> None:
    """Replace the word embedding by an ActiveEmbedding over the ids of the training data."""
    table = backbone.encoder.get_input_embeddings()  # type: ignore[operator]
    active_table = ActiveEmbedding(table, active_ids).train(table.training)
    backbone.encoder.set_input_embeddings(active_table)  # type: ignore[operator]


def unfreeze_rows(backbone: Encoder) -> None:
    """Replace an ActiveEmbedding by a plain embedding with the trained rows."""
    table = backbone.encoder.get_input_embeddings()  # type: ignore[operator]
    if isinstance(table, ActiveEmbedding):
        table.sync()
        plain_table = nn.Embedding.from_pretrained(table.weight.clone(), freeze=False, padding_idx=table.padding_idx)
        backbone.encoder.set_input_embeddings(plain_table.train(table.training))  # type: ignore[operator]

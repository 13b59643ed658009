"""Embedding tables of which only the rows that the data uses are trained."""

import torch
from torch import Tensor, nn

from palm_trainer.model.encoders.encoder import Encoder


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


def freeze_unused_rows(backbone: Encoder, active_ids: Tensor) -> None:
    """Replaces the word embedding by an ActiveEmbedding over the ids that the training data holds."""
    table = backbone.encoder.get_input_embeddings()  # type: ignore[operator]
    active = ActiveEmbedding(table, active_ids).train(table.training)
    backbone.encoder.set_input_embeddings(active)  # type: ignore[operator]


def unfreeze_rows(backbone: Encoder) -> None:
    """Puts a plain embedding, with what was trained, in the place of an ActiveEmbedding."""
    table = backbone.encoder.get_input_embeddings()  # type: ignore[operator]
    if isinstance(table, ActiveEmbedding):
        table.sync()
        plain = nn.Embedding.from_pretrained(table.weight.clone(), freeze=False, padding_idx=table.padding_idx)
        backbone.encoder.set_input_embeddings(plain.train(table.training))  # type: ignore[operator]

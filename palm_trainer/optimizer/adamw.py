"""AdamW (Loshchilov and Hutter 2019), fused, with decay where it belongs and a rate of its own for each head."""

from collections.abc import Mapping

import torch
from torch import nn


def build_adamw(
    encoder: nn.Module,
    heads: Mapping[str, nn.Module],
    *,
    learning_rate: float,
    head_learning_rate: float,
    task_learning_rates: Mapping[str, float] | None = None,
    weight_decay: float = 0.01,
) -> torch.optim.AdamW:
    """Two groups for the encoder and two a head: matrices decay; biases, LayerNorm, CRF scores and embeddings do not.

    Embeddings do not decay so that rows that training never meets keep their pretrained values (see ActiveEmbedding). Each group carries
    its peak rate as `peak_lr`; the loop multiplies it by the schedule's factor.
    """
    groups = _split(encoder, learning_rate, weight_decay)
    for task, head in heads.items():
        groups += _split(head, (task_learning_rates or {}).get(task, head_learning_rate), weight_decay)
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.999), eps=1e-8, fused=True)


def _split(module: nn.Module, rate: float, weight_decay: float) -> list[dict[str, object]]:
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if parameter.requires_grad:
                (decayed if isinstance(owner, nn.Linear) and name == "weight" else plain).append(parameter)
    shared = {"lr": rate, "peak_lr": rate}
    return [
        {"params": decayed, "weight_decay": weight_decay, **shared},
        {"params": plain, "weight_decay": 0.0, **shared},
    ]

"""AdamW (Loshchilov and Hutter 2019), fused, with decay where it belongs and a rate of its own for each head and depth."""

from collections.abc import Mapping

import torch
from torch import nn

_MATRICES = (nn.Linear, nn.Conv1d, nn.Bilinear)


def build_adamw(
    encoder: nn.Module,
    heads: Mapping[str, nn.Module],
    *,
    learning_rate: float,
    head_learning_rate: float,
    task_learning_rates: Mapping[str, float] | None = None,
    rate_factors: Mapping[nn.Parameter, float] | None = None,
    weight_decay: float = 0.01,
) -> torch.optim.AdamW:
    """Two groups for each depth of the encoder and two a head: matrices decay; biases, normalization, CRF scores and embeddings do not.

    Embeddings do not decay so that rows that training never meets keep their pretrained values (see ActiveEmbedding). Each group carries
    its peak rate as `peak_lr`; the loop multiplies it by the schedule's factor. The first group's is `learning_rate`.

    Args:
        encoder: its parameters that need no gradient are left out, like those of the heads.
        heads: by task.
        learning_rate: of the encoder.
        head_learning_rate: of the heads.
        task_learning_rates: of some heads.
        rate_factors: on `learning_rate`, of some parameters of the encoder; 1 for the others.
        weight_decay: of the matrices.
    """
    factors = rate_factors or {}
    by_factor: dict[float, list[tuple[nn.Parameter, bool]]] = {1.0: []}
    for parameter, decays in _trained(encoder):
        by_factor.setdefault(factors.get(parameter, 1.0), []).append((parameter, decays))
    groups = []
    for factor, found in by_factor.items():
        groups += _groups(found, factor * learning_rate, weight_decay)
    for task, head in heads.items():
        groups += _groups(_trained(head), (task_learning_rates or {}).get(task, head_learning_rate), weight_decay)
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.999), eps=1e-8, fused=True)


def _trained(module: nn.Module) -> list[tuple[nn.Parameter, bool]]:
    """The parameters that train, each once, and whether they decay."""
    found: dict[nn.Parameter, bool] = {}
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if parameter.requires_grad:
                found.setdefault(parameter, _decays(owner, name, parameter))
    return list(found.items())


def _decays(owner: nn.Module, name: str, parameter: nn.Parameter) -> bool:
    if isinstance(owner, _MATRICES):
        return name == "weight"
    # XLNet holds the matrices of its attention as bare [hidden, heads, size] parameters, called by one letter
    return parameter.ndim == 3 and len(name) == 1


def _groups(found: list[tuple[nn.Parameter, bool]], rate: float, weight_decay: float) -> list[dict[str, object]]:
    shared = {"lr": rate, "peak_lr": rate}
    return [
        {"params": [p for p, decays in found if decays], "weight_decay": weight_decay, **shared},
        {"params": [p for p, decays in found if not decays], "weight_decay": 0.0, **shared},
    ]


HEAD_RATE_FACTOR = 5.0
"""Rate of the heads over that of the encoder, unless the user says otherwise: heads start from nothing."""

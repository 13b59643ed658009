"""AdamW (Loshchilov and Hutter 2019), fused, with selective weight decay and separate rates for heads, CRFs and depths."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from palm_trainer.model.heads.crf import LinearChainCrf

_MATRICES = (nn.Linear, nn.Conv1d, nn.Bilinear)

HEAD_RATE_FACTOR = 5.0
"""Default learning rate of the heads relative to the encoder: heads are trained from scratch."""

CRF_GROUP = "crf"
"""Key of the parameter groups of CRF scores."""


def build_adamw(
    encoder: nn.Module,
    heads: Mapping[str, nn.Module],
    *,
    learning_rate: float,
    head_learning_rate: float,
    task_learning_rates: Mapping[str, float] | None = None,
    crf_learning_rate: float | None = None,
    rate_factors: Mapping[nn.Parameter, float] | None = None,
    weight_decay: float = 0.01,
) -> torch.optim.AdamW:
    """Build the optimizer, with two parameter groups for each depth of the encoder and for each head.

    The start, transition and end scores of a CRF have a third group, with a rate of their own. They begin at zero,
    and a score moves by about its rate in a step. At a head's rate they hardly leave zero.

    Matrices decay. Biases, normalization, CRF scores and embeddings do not. Without decay,
    embeddings of tokens that do not occur in training keep their pretrained values (see
    ActiveEmbedding). Each group has its peak rate as `peak_lr`, which the loop multiplies by the
    factor of the schedule. The rate of the first group is `learning_rate`.

    Args:
        encoder: frozen parameters are left out, as for the heads.
        heads: by task.
        learning_rate: of the encoder.
        head_learning_rate: of the heads.
        task_learning_rates: of some heads.
        crf_learning_rate: of the scores of every CRF. None: that of its head, in the head's groups.
        rate_factors: factors on `learning_rate` for some parameters of the encoder.
        weight_decay: of the matrices.
    """
    factors = rate_factors or {}
    by_factor: dict[float, dict[nn.Parameter, bool]] = {1.0: {}}
    for parameter, decays in _trainable(encoder).items():
        by_factor.setdefault(factors.get(parameter, 1.0), {})[parameter] = decays
    groups = []
    for factor, parameters in by_factor.items():
        groups += _groups(parameters, factor * learning_rate, weight_decay)
    for task, head in heads.items():
        head_rate = (task_learning_rates or {}).get(task, head_learning_rate)
        parameters = _trainable(head)
        scores = [] if crf_learning_rate is None else _take_crf_scores(head, parameters)
        groups += _groups(parameters, head_rate, weight_decay)
        if scores:
            rates = {"lr": crf_learning_rate, "peak_lr": crf_learning_rate}
            groups.append({"params": scores, "weight_decay": 0.0, **rates, CRF_GROUP: True})
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.999), eps=1e-8, fused=True)


def _trainable(module: nn.Module) -> dict[nn.Parameter, bool]:
    """Return the trainable parameters, each with True if it decays."""
    parameters: dict[nn.Parameter, bool] = {}
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if parameter.requires_grad:
                parameters.setdefault(parameter, _decays(owner, name, parameter))
    return parameters


def _take_crf_scores(head: nn.Module, parameters: dict[nn.Parameter, bool]) -> list[nn.Parameter]:
    """Remove the scores of a head's CRFs from its trainable parameters, and return them."""
    scores = []
    for module in head.modules():
        if isinstance(module, LinearChainCrf):
            for parameter in module.parameters(recurse=False):
                if parameters.pop(parameter, None) is not None:
                    scores.append(parameter)
    return scores


def crf_rate(optimizer_state: Mapping[str, Any]) -> float | None:
    """Return the peak rate of the CRF scores in the state of an optimizer. None: they had the rate of their head."""
    for group in optimizer_state["param_groups"]:
        if CRF_GROUP in group:
            return float(group["peak_lr"])
    return None


def _decays(owner: nn.Module, name: str, parameter: nn.Parameter) -> bool:
    if isinstance(owner, _MATRICES):
        return name == "weight"
    # XLNet holds the matrices of its attention as bare [hidden, heads, size] parameters with one-letter names.
    return parameter.ndim == 3 and len(name) == 1


def _groups(parameters: Mapping[nn.Parameter, bool], rate: float, weight_decay: float) -> list[dict[str, object]]:
    """Return the groups of the parameters with and without decay."""
    rates = {"lr": rate, "peak_lr": rate}
    decaying = []
    constant = []
    for parameter, decays in parameters.items():
        if decays:
            decaying.append(parameter)
        else:
            constant.append(parameter)
    return [
        {"params": decaying, "weight_decay": weight_decay, **rates},
        {"params": constant, "weight_decay": 0.0, **rates},
    ]

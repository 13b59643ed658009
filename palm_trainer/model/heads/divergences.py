"""Kullback-Leibler divergences between answers: of two passes over a batch, and from a teacher's soft targets."""

import torch
from torch import Tensor
from torch.nn import functional as F

IMPOSSIBLE = -1e4
"""Logit of a place that cannot be chosen: exp(-1e4) is 0 in float32, and the difference of two of them is a number."""


def has_soft_target(soft: Tensor) -> Tensor:
    """Mark the rows or pieces of soft targets that a teacher has answered, bool, without the last axis."""
    return soft[..., 0] >= 0


def softmax_divergence(first: Tensor, second: Tensor) -> Tensor:
    """Logits [N, C] each: (KL(p || q) + KL(q || p)) / 2 = sum of (p - q) (log p - log q) / 2."""
    p = F.log_softmax(first, dim=-1)
    q = F.log_softmax(second, dim=-1)
    return ((p.exp() - q.exp()) * (p - q)).sum() / 2


def sigmoid_divergence(first: Tensor, second: Tensor) -> Tensor:
    """Logits [N, C] each, one yes or no per entry: log p / (1 - p) is the logit itself."""
    return ((first.sigmoid() - second.sigmoid()) * (first - second)).sum() / 2


def softmax_divergence_from(soft: Tensor, logits: Tensor) -> Tensor:
    """Soft targets and logits [N, C]: sum of KL(soft || softmax(logits))."""
    return F.kl_div(F.log_softmax(logits, dim=-1), soft, reduction="sum")


def sigmoid_divergence_from(soft: Tensor, logits: Tensor) -> Tensor:
    """Soft targets and logits [N, C], one yes or no per entry: sum of KL(soft || sigmoid(logits))."""
    entropy = -(torch.xlogy(soft, soft) + torch.xlogy(1 - soft, 1 - soft)).sum()
    return F.binary_cross_entropy_with_logits(logits, soft, reduction="sum") - entropy

"""R-Drop (Liang et al. 2021): a text goes through the model twice, with other dropout, and the two answers shall agree.

The loss is the mean of the two passes' losses and alpha / 2 of the symmetric Kullback-Leibler divergence between what they say: half of
equation 4 of the paper, so that alpha is the paper's and losses stay comparable with those without.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from palm_trainer.tensors import IGNORE, to_full_precision

_IMPOSSIBLE = -1e4  # exp(-1e4) is 0 in float32, and the difference of two of them is a number


def divergence(kind: str, one: Mapping[str, Tensor], two: Mapping[str, Tensor], targets: Tensor) -> Tensor:
    """Symmetric divergence of a head's answers in two passes, summed over what its loss is summed over: nothing for what is unlabelled.

    Args:
        kind: of the task. A CRF's divergence is that of its emissions, a piece each; `masked_lm` has none.
        one: the head's tensors by name, from one pass.
        two: from the other.
        targets: of the batch, as the head's loss takes them.
    """
    if kind == "mrc":
        return _places(one, two, targets)
    first, second = to_full_precision(one["logits"]), to_full_precision(two["logits"])
    labelled = targets != IGNORE
    if kind == "multi_label":
        return _bernoulli(first[labelled[:, 0]], second[labelled[:, 0]])
    if kind == "match" and first.shape[1] == 1:  # a ranker: each row is followed by its negative
        rows = labelled.repeat_interleave(2)
        return _bernoulli(first[rows], second[rows])
    return _softmax(first[labelled], second[labelled])


def _places(one: Mapping[str, Tensor], two: Mapping[str, Tensor], targets: Tensor) -> Tensor:
    """Mean of beginning and end, over the passage and "no answer"; targets int64 [B, 5], see `reader.mrc.Place`."""
    start, _, first, after, null = targets.unbind(dim=1)
    position = torch.arange(one["start_logits"].shape[1], device=targets.device)
    allowed = (position >= first[:, None]) & (position < after[:, None]) | (position == null[:, None])
    rows = start != IGNORE
    found = [
        _softmax(*(to_full_precision(view[name]).masked_fill(~allowed, _IMPOSSIBLE)[rows] for view in (one, two)))
        for name in ("start_logits", "end_logits")
    ]
    return (found[0] + found[1]) / 2


def _softmax(one: Tensor, two: Tensor) -> Tensor:
    """Logits [N, C] each: (KL(p || q) + KL(q || p)) / 2 = sum of (p - q) (log p - log q) / 2."""
    p, q = F.log_softmax(one, dim=-1), F.log_softmax(two, dim=-1)
    return ((p.exp() - q.exp()) * (p - q)).sum() / 2


def _bernoulli(one: Tensor, two: Tensor) -> Tensor:
    """Logits [N, C] each, a yes or no of its own: log p / (1 - p) is the logit itself."""
    return ((one.sigmoid() - two.sigmoid()) * (one - two)).sum() / 2

"""GradNorm (Chen et al. 2018, algorithm 1): weights move until the tasks' gradients at the last shared layer have like norms."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from palm_trainer.training.balancing.base import Scale, total

_LEAST = 1e-3  # the paper leaves open what keeps a weight positive


class GradNorm:
    """sum over tasks of w x mean loss, where the w of a pass' tasks add up to their number.

    The norm of a task's gradient is drawn to (mean norm) x r ** alpha, where r is what is left of its first loss against the mean of
    that over the tasks: who lags behind gets larger gradients. The gradient of sum |norm - aim| by w, the aim held constant, is
    sign(norm - aim) x (norm / w), so no second derivative is needed.

    Args:
        tasks: their names.
        layer: parameters of the last shared layer.
        alpha: how strongly tasks that lag behind are favoured.
        learning_rate: of the weights, which Adam moves.
    """

    def __init__(self, tasks: Sequence[str], layer: Sequence[nn.Parameter], alpha: float, learning_rate: float) -> None:
        device = layer[0].device
        self.weights = {task: nn.Parameter(torch.ones((), device=device)) for task in tasks}
        self._layer = list(layer)
        self._alpha = alpha
        self._optimizer = torch.optim.Adam(self.weights.values(), lr=learning_rate)
        self._first: dict[str, float] = {}

    def backward(self, losses: Mapping[str, Tensor], scale: Scale, share: float = 1.0) -> None:
        """Adds the gradients of the sum with the weights as they stand, then moves these."""
        for task, loss in losses.items():
            self._first.setdefault(task, float(loss.detach()))
        norms = self._norms(losses, scale) if len(losses) > 1 else {}
        scale(total([self.weights[task].detach() * loss for task, loss in losses.items()])).backward()
        if norms and all(torch.isfinite(norm) for norm in norms.values()):  # an fp16 overflow skips the step
            self._move(norms, {task: float(loss.detach()) for task, loss in losses.items()})

    def _norms(self, losses: Mapping[str, Tensor], scale: Scale) -> dict[str, Tensor]:
        """Norm of each task's unweighted gradient at the layer."""
        factor = scale(torch.ones((), device=self._layer[0].device))
        norms = {}
        for task, loss in losses.items():
            found = torch.autograd.grad(scale(loss), self._layer, retain_graph=True, allow_unused=True)
            parts = [gradient.norm() for gradient in found if gradient is not None]
            norms[task] = torch.stack(parts).norm() / factor
        return norms

    @torch.no_grad()
    def _move(self, norms: Mapping[str, Tensor], losses: Mapping[str, float]) -> None:
        left = {task: loss / self._first[task] if self._first[task] > 0 else 1.0 for task, loss in losses.items()}
        mean_left = sum(left.values()) / len(left)
        weighted = {task: self.weights[task] * norm for task, norm in norms.items()}
        mean = total(list(weighted.values())) / len(weighted)
        for task, norm in norms.items():
            rate = left[task] / mean_left if mean_left > 0 else 1.0
            self.weights[task].grad = torch.sign(weighted[task] - mean * rate**self._alpha) * norm
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        own = [self.weights[task].clamp_(min=_LEAST) for task in norms]
        share = len(own) / total(own)
        for weight in own:
            weight.mul_(share)

    def observe(self, losses: Mapping[str, float]) -> None:
        """Nothing beyond the gradients."""

    def state_dict(self) -> dict[str, Any]:
        """Weights, their optimizer's moments, first losses."""
        weights = {task: float(weight.detach()) for task, weight in self.weights.items()}
        return {"weights": weights, "optimizer": self._optimizer.state_dict(), "first": dict(self._first)}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues where `state_dict` was taken."""
        for task, weight in self.weights.items():
            weight.fill_(state["weights"][task])
        self._optimizer.load_state_dict(state["optimizer"])
        self._first = dict(state["first"])

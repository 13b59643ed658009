"""GradNorm (Chen et al. 2018, algorithm 1): weights equalize the norms of the tasks' gradients."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from palm_trainer.training.balancing.base import Scale, total, weighted_sum

_MIN_WEIGHT = 1e-3  # the paper does not say what keeps a weight positive


class GradNorm:
    """Weighted sum of the mean losses, where the weights w of the tasks in a pass add up to their number.

    The norm of a task's gradient is pulled towards (mean norm) x r ** alpha. r is the remaining
    share of the task's first loss, divided by the mean of that over the tasks, so that slow tasks
    get larger gradients. With a constant target, the gradient of sum |norm - target| by w is sign(norm - target) x (norm / w): no second derivative is needed.

    Args:
        tasks: names of the tasks.
        layer: parameters of the last shared layer.
        alpha: strength with which slow tasks are favoured.
        learning_rate: of the weights, which Adam updates.
    """

    def __init__(self, tasks: Sequence[str], layer: Sequence[nn.Parameter], alpha: float, learning_rate: float) -> None:
        device = layer[0].device
        self.weights = {task: nn.Parameter(torch.ones((), device=device)) for task in tasks}
        self._layer = list(layer)
        self._alpha = alpha
        self._optimizer = torch.optim.Adam(self.weights.values(), lr=learning_rate)
        self._first_losses: dict[str, float] = {}

    def backward(self, losses: Mapping[str, Tensor], scale: Scale, fraction: float = 1.0) -> None:
        """Add the gradients of the sum with the current weights, then update the weights.

        Args:
            losses: by task.
            scale: gradient scaler.
            fraction: not used.
        """
        for task, loss in losses.items():
            self._first_losses.setdefault(task, float(loss.detach()))
        norms = self._norms(losses, scale) if len(losses) > 1 else {}
        constant_weights = {}
        for task, weight in self.weights.items():
            constant_weights[task] = weight.detach()
        scale(weighted_sum(losses, constant_weights)).backward()
        if norms and all(map(torch.isfinite, norms.values())):  # an fp16 overflow skips the step
            detached_losses = {}
            for task, loss in losses.items():
                detached_losses[task] = float(loss.detach())
            self._update_weights(norms, detached_losses)

    def _norms(self, losses: Mapping[str, Tensor], scale: Scale) -> dict[str, Tensor]:
        """Return the norm of each task's unweighted gradient at the layer."""
        factor = scale(torch.ones((), device=self._layer[0].device))
        norms = {}
        for task, loss in losses.items():
            gradients = torch.autograd.grad(scale(loss), self._layer, retain_graph=True, allow_unused=True)
            parameter_norms = []
            for gradient in gradients:
                if gradient is not None:
                    parameter_norms.append(gradient.norm())
            norms[task] = torch.stack(parameter_norms).norm() / factor
        return norms

    @torch.no_grad()
    def _update_weights(self, norms: Mapping[str, Tensor], losses: Mapping[str, float]) -> None:
        loss_ratios = {}
        for task, loss in losses.items():
            first_loss = self._first_losses[task]
            loss_ratios[task] = loss / first_loss if first_loss > 0 else 1.0
        mean_ratio = sum(loss_ratios.values()) / len(loss_ratios)
        weighted_norms = {}
        for task, norm in norms.items():
            weighted_norms[task] = self.weights[task] * norm
        mean_norm = total(list(weighted_norms.values())) / len(weighted_norms)
        for task, norm in norms.items():
            rate = loss_ratios[task] / mean_ratio if mean_ratio > 0 else 1.0
            self.weights[task].grad = torch.sign(weighted_norms[task] - mean_norm * rate**self._alpha) * norm
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        weights = [self.weights[task].clamp_(min=_MIN_WEIGHT) for task in norms]
        factor = len(weights) / total(weights)
        for weight in weights:
            weight.mul_(factor)

    def observe(self, losses: Mapping[str, float]) -> None:
        """Do nothing: only gradients matter."""

    def state_dict(self) -> dict[str, Any]:
        """Return the weights, the state of their optimizer, and the first losses."""
        weights = {}
        for task, weight in self.weights.items():
            weights[task] = float(weight.detach())
        return {"weights": weights, "optimizer": self._optimizer.state_dict(), "first": dict(self._first_losses)}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""
        for task, weight in self.weights.items():
            weight.fill_(state["weights"][task])
        self._optimizer.load_state_dict(state["optimizer"])
        self._first_losses = dict(state["first"])

"""Gradient balancing: the gradients of the tasks are combined so that they do not conflict.

Each task's loss is propagated back through the shared encoder separately. torchjd computes weights
from the inner products of these gradients, so that no matrix of the size tasks x parameters is
needed. The gradient of a head is that of its own loss.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor, nn

from palm_serve.system.installation import how_to_install
from palm_trainer.errors import ConfigError
from palm_trainer.training.balancing.base import Scale

GradientMethod: TypeAlias = Literal["pcgrad", "cagrad", "upgrad", "aligned_mtl", "mgda"]
Gradients: TypeAlias = Sequence[Tensor | None]
"""Gradients of some parameters; None for a parameter that the loss does not depend on."""

_RIDGE = 1e-4  # of the mean squared length of the gradients
_TINY = 1e-30


class GradientBalancing:
    """The encoder's gradient is the sum over tasks of w x (gradient of weight x mean loss), with w from the method.

    It is scaled so that orthogonal gradients of equal length give their plain sum, as `fixed` does.
    CAGrad's is up to 1 + c times that.

    Args:
        method: PCGrad (Yu et al. 2020), CAGrad (Liu et al. 2021), UPGrad (Quinton and Rey 2024),
            Aligned-MTL (Senushkin et al. 2023) or MGDA (Désidéri 2012, Sener and Koltun 2018).
            PCGrad draws its order from torch's CPU generator.
        weights: configured `weight` of each task.
        shared: trainable parameters of the encoder.
        head_parameters: trainable parameters of each task's head.
        cagrad_c: radius of CAGrad's ball, relative to the length of the mean gradient.

    Raises:
        ConfigError: torchjd or another package that the method needs is not installed.
    """

    def __init__(
        self,
        method: GradientMethod,
        weights: Mapping[str, float],
        shared: Sequence[nn.Parameter],
        head_parameters: Mapping[str, Sequence[nn.Parameter]],
        cagrad_c: float,
    ) -> None:
        self._fixed_weights = dict(weights)
        self._shared = list(shared)
        self._head_parameters = {task: list(parameters) for task, parameters in head_parameters.items()}
        self._returns_sum = method == "pcgrad"  # the other methods return means
        self._weighting = _weighting(method, cagrad_c)

    def backward(self, losses: Mapping[str, Tensor], scale: Scale, fraction: float = 1.0) -> None:
        """Add the gradients of one pass.

        Args:
            losses: by task.
            scale: gradient scaler.
            fraction: not used.
        """
        weighted_losses = {}
        for task, loss in losses.items():
            weighted_losses[task] = self._fixed_weights[task] * loss
        if len(weighted_losses) == 1:
            [loss] = weighted_losses.values()
            scale(loss).backward()
            return
        rows: list[Gradients] = []
        for position, (task, loss) in enumerate(weighted_losses.items()):
            is_last = position + 1 == len(weighted_losses)
            head_parameters = self._head_parameters[task]
            gradients = torch.autograd.grad(
                scale(loss), [*self._shared, *head_parameters], retain_graph=not is_last, allow_unused=True
            )
            rows.append(gradients[: len(self._shared)])
            _add(head_parameters, gradients[len(self._shared) :])
        weights = self._task_weights(_gramian(rows)).unbind()
        for position, parameter in enumerate(self._shared):
            weighted = []
            for weight, row in zip(weights, rows, strict=True):
                gradient = row[position]
                if gradient is not None:
                    weighted.append(weight * gradient)
            if weighted:
                _add([parameter], [torch.stack(weighted).sum(dim=0)])

    def _task_weights(self, gramian: Tensor) -> Tensor:
        """Compute the weight of each task's gradient, [tasks], from their inner products, [tasks, tasks]."""
        # After an fp16 overflow the step is skipped, but the solver must not fail.
        if not torch.isfinite(gramian).all():
            return torch.ones_like(gramian[0])
        cpu_gramian = gramian.cpu()  # MPS has no eigenvalues, and the solvers run on the CPU
        weights: Tensor = self._weighting(cpu_gramian / cpu_gramian.diagonal().mean().clamp(min=_TINY))
        return (weights if self._returns_sum else len(weights) * weights).to(gramian.device)

    def observe(self, losses: Mapping[str, float]) -> None:
        """Do nothing: only gradients matter."""

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state. The training loop saves torch's generator."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Do nothing: there is no state."""


def _add(parameters: Sequence[nn.Parameter], gradients: Gradients) -> None:
    """Add gradients to those of the parameters."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


def _gramian(rows: Sequence[Gradients]) -> Tensor:
    """Return the inner products of the tasks' gradients, float32 [tasks, tasks].

    Missing gradients count as 0.
    """
    products: dict[tuple[int, int], Tensor] = {}
    for i in range(len(rows)):
        for j in range(i + 1):
            products[i, j] = products[j, i] = _inner_product(rows[i], rows[j])
    lines = []
    for i in range(len(rows)):
        lines.append(torch.stack([products[i, j] for j in range(len(rows))]))
    return torch.stack(lines)


def _inner_product(first_row: Gradients, second_row: Gradients) -> Tensor:
    products = []
    for first, second in zip(first_row, second_row, strict=True):
        if first is not None and second is not None:
            products.append(torch.dot(first.flatten().float(), second.flatten().float()))
    return torch.stack(products).sum()


def _weighting(method: GradientMethod, cagrad_c: float) -> Any:
    """Return torchjd's function from inner products to weights."""
    try:
        aggregation = import_module("torchjd.aggregation")
        match method:
            case "pcgrad":
                return aggregation.PCGradWeighting()
            case "cagrad":
                return aggregation.CAGradWeighting(c=cagrad_c)
            case "upgrad":
                return aggregation.UPGradWeighting(projector=project)
            case "aligned_mtl":
                return aggregation.AlignedMTLWeighting()
            case "mgda":
                return aggregation.MGDAWeighting()
    except ImportError as error:
        raise ConfigError(
            f"train.balancing.method: '{method}' needs a package that is not installed ({error}). "
            f"Choose another, or {how_to_install('gradient')}"
        ) from error


def project(weights: Tensor, gramian: Tensor) -> Tensor:
    """Compute UPGrad's projection onto the dual cone: for each row u of `weights`, the v >= u with the least v G v.

    With G = A^T A and v = u + x this is non-negative least squares, min |A x + A u|, which scipy solves. torchjd's own
    way needs a solver under the GPL. As there, a small multiple of the identity is added to G, so
    that a gradient close to zero gets a finite weight.

    Args:
        weights: [tasks, tasks].
        gramian: G, [tasks, tasks].
    """
    values, vectors = np.linalg.eigh(gramian.cpu().double().numpy())
    root = np.sqrt(values.clip(min=0) + max(_RIDGE * values.mean(), _TINY))[:, None] * vectors.T
    projected = []
    for row in weights.cpu().double().numpy():
        addition, _ = nnls(root, -root @ row)
        projected.append(row + addition)
    return torch.tensor(np.stack(projected), dtype=weights.dtype, device=weights.device)

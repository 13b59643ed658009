"""Gradient methods: the encoder's gradients of the tasks of one pass are combined so that they do not work against each other.

Each task's loss is taken back through the shared encoder by itself. torchjd turns the inner products of these gradients into weights,
so that nothing of the size tasks x parameters is ever copied into one matrix. The gradient of a head is that of its own loss.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor, nn

from palm_trainer.errors import ConfigError
from palm_trainer.training.balancing.base import Scale

GradientMethod: TypeAlias = Literal["pcgrad", "cagrad", "upgrad", "aligned_mtl", "mgda"]

_RIDGE = 1e-4  # of the mean squared length of the gradients
_TINY = 1e-30


class GradientBalancing:
    """The encoder gets sum over tasks of w x (gradient of weight x mean loss), w from the method.

    Scaled so that gradients at right angles and of one length give their plain sum, as `fixed` does; CAGrad's is up to 1 + c times that.

    Args:
        method: PCGrad (Yu et al. 2020), CAGrad (Liu et al. 2021), UPGrad (Quinton and Rey 2024), Aligned-MTL (Senushkin et al. 2023) or
            MGDA (Désidéri 2012, Sener and Koltun 2018). PCGrad draws its order from torch's CPU generator.
        weights: the configuration's `weight` of each task.
        shared: parameters of the encoder that train.
        own: those of each task's head.
        cagrad_c: radius of CAGrad's ball, against the length of the mean gradient.

    Raises ConfigError when torchjd, or what the method needs beside it, is not installed.
    """

    def __init__(
        self,
        method: GradientMethod,
        weights: Mapping[str, float],
        shared: Sequence[nn.Parameter],
        own: Mapping[str, Sequence[nn.Parameter]],
        cagrad_c: float,
    ) -> None:
        self._fixed = dict(weights)
        self._shared = list(shared)
        self._own = {task: list(parameters) for task, parameters in own.items()}
        self._adds_up = method == "pcgrad"  # the others give means
        self._weighting = _weighting(method, cagrad_c)

    def backward(self, losses: Mapping[str, Tensor], scale: Scale, share: float = 1.0) -> None:
        """Adds the gradients of one pass to those of the parameters."""
        weighted = {task: self._fixed[task] * loss for task, loss in losses.items()}
        if len(weighted) == 1:  # nobody to agree with
            [loss] = weighted.values()
            scale(loss).backward()
            return
        rows = []
        for place, (task, loss) in enumerate(weighted.items()):
            own = self._own[task]
            found = torch.autograd.grad(
                scale(loss), [*self._shared, *own], retain_graph=place + 1 < len(weighted), allow_unused=True
            )
            rows.append(found[: len(self._shared)])
            _add(own, found[len(self._shared) :])
        weights = self._agree(_gramian(rows)).unbind()
        for place, parameter in enumerate(self._shared):
            parts = [w * row[place] for w, row in zip(weights, rows, strict=True) if row[place] is not None]
            if parts:
                _add([parameter], [torch.stack(parts).sum(dim=0)])

    def _agree(self, gramian: Tensor) -> Tensor:
        """Weight of each task's gradient, from their inner products [T, T]."""
        if not torch.isfinite(
            gramian
        ).all():  # an fp16 overflow: the step will be skipped, but must not break the solver
            return torch.ones_like(gramian[0])
        small = gramian.cpu()  # MPS has no eigenvalues, and the solvers run on the CPU
        weights: Tensor = self._weighting(small / small.diagonal().mean().clamp(min=_TINY))
        return (weights if self._adds_up else len(weights) * weights).to(gramian.device)

    def observe(self, losses: Mapping[str, float]) -> None:
        """Nothing beyond the gradients."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: torch's generator is saved by the loop."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to load."""


def _add(parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None]) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


def _gramian(rows: Sequence[Sequence[Tensor | None]]) -> Tensor:
    """Inner products of the tasks' gradients, float32 [T, T]; a parameter that a task does not reach counts as 0."""

    def product(one: Sequence[Tensor | None], other: Sequence[Tensor | None]) -> Tensor:
        pairs = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
        return torch.stack([torch.dot(a.flatten().float(), b.flatten().float()) for a, b in pairs]).sum()

    products = {(i, j): product(rows[i], rows[j]) for i in range(len(rows)) for j in range(i + 1)}
    return torch.stack(
        [torch.stack([products[max(i, j), min(i, j)] for j in range(len(rows))]) for i in range(len(rows))]
    )


def _weighting(method: GradientMethod, cagrad_c: float) -> Any:
    """torchjd's function from inner products to weights."""
    try:
        found = import_module("torchjd.aggregation")
        match method:
            case "pcgrad":
                return found.PCGradWeighting()
            case "cagrad":
                return found.CAGradWeighting(c=cagrad_c)
            case "upgrad":
                return found.UPGradWeighting(projector=project)
            case "aligned_mtl":
                return found.AlignedMTLWeighting()
            case "mgda":
                return found.MGDAWeighting()
    except ImportError as error:
        raise ConfigError(
            f"train.balancing.method: '{method}' needs a package that is not installed ({error}). Install palm-nlu[gradient], or choose another."
        ) from error


def project(weights: Tensor, gramian: Tensor) -> Tensor:
    """UPGrad's projection onto the dual cone: for each row u of `weights` [T, T], the v >= u with the least v G v.

    With G = A^T A and v = u + x this is non-negative least squares, min |A x + A u|, which scipy solves; torchjd's own way needs a solver
    under the GPL. As there, a small multiple of the identity is added to G, so that a gradient of nearly nothing gets no weight without end.
    """
    values, vectors = np.linalg.eigh(gramian.cpu().double().numpy())
    root = np.sqrt(values.clip(min=0) + max(_RIDGE * values.mean(), _TINY))[:, None] * vectors.T
    found = [u + nnls(root, -root @ u)[0] for u in weights.cpu().double().numpy()]
    return torch.tensor(np.stack(found), dtype=weights.dtype, device=weights.device)

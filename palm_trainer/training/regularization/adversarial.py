"""Adversarial training in the embedding space: the fast gradient method (Miyato et al. 2017, equation 5).

Each step learns its batch twice: unchanged, and with the embeddings of each text moved by `epsilon`
in the direction in which the loss grows fastest. The gradients add up (the paper's lambda is 1).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class AdversarialNoise:
    """Adversarial noise on the output of an embedding table.

    Args:
        table: module of the word embedding. Its weight is not changed, since each text has its own
            noise.
        epsilon: L2 norm of the noise on all embeddings of one text (row of the batch).
    """

    def __init__(self, table: nn.Module, epsilon: float) -> None:
        self._table = table
        self._epsilon = epsilon
        self._noise: Tensor | None = None

    @contextmanager
    def observed(self) -> Iterator[None]:
        """Record the embeddings of a normal forward pass.

        Its backward pass then gives the gradient of the loss.
        """

        def _add_zeros(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            self._noise = torch.zeros_like(output, requires_grad=True)  # its gradient is that of the embeddings
            return output + self._noise

        with _forward_hook(self._table, _add_zeros):
            yield

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Add noise in a forward pass, after the backward pass of the observed one."""
        assert self._noise is not None
        assert self._noise.grad is not None
        gradient = self._noise.grad
        # [batch]; 0 for a text without a label
        norms = gradient.flatten(1).norm(dim=1).clamp(min=torch.finfo(gradient.dtype).tiny)
        noise = self._epsilon * gradient / norms[:, None, None]
        self._noise = None
        with _forward_hook(self._table, lambda _module, _inputs, output: output + noise):
            yield


@contextmanager
def _forward_hook(module: nn.Module, function: Any) -> Iterator[None]:
    handle = module.register_forward_hook(function)
    try:
        yield
    finally:
        handle.remove()

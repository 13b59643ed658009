"""Adversarial training in the embedding space: the fast gradient method (Miyato et al. 2017, equation 5).

A step learns its batch twice: as it is, and with each text's embeddings moved by `epsilon` in the direction in which the loss grows fastest.
The gradients add up (the paper's lambda is 1).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class AdversarialNoise:
    """Noise on what an embedding table gives.

    Args:
        table: the word embedding; its module, not its weight: noise is a text's own.
        epsilon: L2 norm of the noise on all embeddings of one text (row of the batch).
    """

    def __init__(self, table: nn.Module, epsilon: float) -> None:
        self._table = table
        self._epsilon = epsilon
        self._noise: Tensor | None = None

    @contextmanager
    def observed(self) -> Iterator[None]:
        """A forward pass as ever; its backward pass will say where the loss grows."""

        def watch(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            self._noise = torch.zeros_like(output, requires_grad=True)  # its gradient is that of the embeddings
            return output + self._noise

        with _hook(self._table, watch):
            yield

    @contextmanager
    def applied(self) -> Iterator[None]:
        """A forward pass with noise, after the backward pass of the one that was observed."""
        assert self._noise is not None
        assert self._noise.grad is not None
        gradient = self._noise.grad
        norms = gradient.flatten(1).norm(dim=1).clamp(min=torch.finfo(gradient.dtype).tiny)  # [B]; 0 without a label
        noise = self._epsilon * gradient / norms[:, None, None]
        self._noise = None
        with _hook(self._table, lambda _module, _inputs, output: output + noise):
            yield


@contextmanager
def _hook(module: nn.Module, function: Any) -> Iterator[None]:
    handle = module.register_forward_hook(function)
    try:
        yield
    finally:
        handle.remove()

"""Training for int8: the model learns with the rounding of the graphs that `palm_trainer.export.quantize` makes.

A forward pass in training rounds the weights of each multiplication to multiples of a scale for each output, and its
inputs to 8 bits for each token. Gradients pass through the rounding as if it were not there (a straight-through estimator,
Bengio et al. 2013). For evaluation and saving, `applied` puts the rounded weights and embeddings in place of the trained
ones. To round them once more changes nothing. So an int8 graph has exactly the weights of the saved model, and only the
rounding of its activations is left.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from palm_trainer.model.encoders.active_embedding import ActiveEmbedding
from palm_trainer.model.multi_task import MultiTaskModel
from palm_trainer.tensors import (
    INT8_MIN_MAGNITUDE,
    INT8_ROW_LEVELS,
    INT8_SCALE_BITS,
    INT8_WEIGHT_LEVELS,
    SEQUENCE_OUTPUT,
)

_ROWS_OF_TOKENS = 3
"""Axes of an input whose multiplication is exported as int8: batch, tokens and width. Vectors of texts have two."""


def round_weight(weight: Tensor) -> Tensor:
    """Round a weight `[outputs, inputs]` to multiples of a scale for each output."""
    scale = (weight.abs().amax(dim=1, keepdim=True) / INT8_WEIGHT_LEVELS).clamp(min=INT8_MIN_MAGNITUDE)
    return (weight / scale).round() * scale


def round_table(table: Tensor) -> Tensor:
    """Round embeddings `[rows, width]` to multiples of a scale for each row.

    The scale has so few bits that its multiples are exact numbers, and rounding them again gives the same scale.
    """
    largest = table.abs().amax(dim=1, keepdim=True)
    mantissa, exponent = torch.frexp((largest / INT8_ROW_LEVELS).clamp(min=INT8_MIN_MAGNITUDE))
    steps = 2.0**INT8_SCALE_BITS
    scale = torch.ldexp((mantissa * steps).ceil() / steps, exponent)
    return (table / scale).round() * scale


def round_tokens(values: Tensor) -> Tensor:
    """Round the vector of each token `[..., width]` to 8 bits of its largest magnitude."""
    largest = values.abs().amax(dim=-1, keepdim=True).clamp(min=INT8_MIN_MAGNITUDE)
    return (values / largest * INT8_ROW_LEVELS).round() / INT8_ROW_LEVELS * largest


class QuantizedLinear(nn.Linear):
    """A linear layer that rounds its weights and the vectors of tokens in training. In evaluation it is a plain one."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # the name that callers of nn.Linear may use
        """Multiply `[..., inputs]` by the weights."""
        if not self.training or input.dim() < _ROWS_OF_TOKENS:
            return super().forward(input)
        return F.linear(_straight_through(input.float(), round_tokens), self._rounded_weight(), self.bias)

    def _rounded_weight(self) -> Tensor:
        return _straight_through(self.weight, round_weight)


def _straight_through(values: Tensor, rounding: Any) -> Tensor:
    """Return the rounded values with the gradient of the values."""
    rounded: Tensor = values + (rounding(values.detach()) - values.detach())
    return rounded


class Quantization:
    """Makes a model learn for int8.

    Args:
        model: on its device. Its linear layers for tokens become QuantizedLinear, and rows of embeddings that are not
            trained are rounded.
    """

    def __init__(self, model: MultiTaskModel) -> None:
        self._weights: list[Tensor] = []
        self._tables: list[Tensor] = []
        self._trained: list[Tensor] | None = None
        token_heads = [head for name in model.heads if SEQUENCE_OUTPUT in (head := model.head(name)).inputs]
        for module in chain(model.backbone.modules(), *(head.modules() for head in token_heads)):
            if type(module) is nn.Linear:
                module.__class__ = QuantizedLinear  # the same parameters under the same names
                self._weights.append(module.weight)
            elif isinstance(module, nn.Embedding):
                self._tables.append(module.weight)
            elif isinstance(module, ActiveEmbedding):
                module.weight.copy_(round_table(module.weight))
                self._tables.append(module.active)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Use the rounded weights, and restore the trained ones at the end."""
        parameters = self._parameters()
        self._trained = [parameter.detach().clone() for parameter in parameters]
        try:
            with torch.no_grad():
                for weight in self._weights:
                    weight.copy_(round_weight(weight))
                for table in self._tables:
                    table.copy_(round_table(table))
            yield
        finally:
            self._restore(self._trained)
            self._trained = None

    def _parameters(self) -> list[Tensor]:
        return [*self._weights, *self._tables]

    @torch.no_grad()
    def _restore(self, trained: list[Tensor]) -> None:
        for parameter, values in zip(self._parameters(), trained, strict=True):
            parameter.copy_(values)

    def state_dict(self) -> dict[str, Any]:
        """Return the trained weights, also within `applied`."""
        trained = self._trained
        if trained is None:
            trained = [parameter.detach().clone() for parameter in self._parameters()]
        return {"trained": trained}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state."""
        self._restore(state["trained"])

"""TensorSpec, and the one place that checks that reader, backbone and head fit.

Each component declares once what it takes and gives; the same declarations check the wiring, name the graph's dynamic axes, and fill the manifest.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from palm_trainer.errors import WiringError

IGNORE = -100
"""Target of what has no label: special tokens, padding, unlabelled examples. Readers write it, heads leave it out of the loss."""

NO_SOFT_TARGET = -1.0
"""In the place of probabilities: no teacher has answered there (special tokens, padding, text that was changed)."""

Axis = Literal["batch", "sequence", "hidden", "labels", "tags", "vocabulary", "embedding"]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A named tensor: `TensorSpec("input_ids", "int64", ("batch", "sequence"))`."""

    name: str
    dtype: Literal["int64", "float32"]
    axes: tuple[Axis, ...]


INPUT_IDS = TensorSpec("input_ids", "int64", ("batch", "sequence"))
ATTENTION_MASK = TensorSpec("attention_mask", "int64", ("batch", "sequence"))
TOKEN_TYPE_IDS = TensorSpec("token_type_ids", "int64", ("batch", "sequence"))
SEQUENCE_OUTPUT = TensorSpec("sequence_output", "float32", ("batch", "sequence", "hidden"))
EMBEDDING_TABLE = TensorSpec("embedding_table", "float32", ("vocabulary", "embedding"))
POOLED_OUTPUT = TensorSpec("pooled_output", "float32", ("batch", "hidden"))

PALM_NAMES = {"input_ids": "token_ids", "attention_mask": "input_mask", "token_type_ids": "segment_ids"}
"""What the Python API of the original calls the model's inputs."""


def to_full_precision(tensor: Tensor) -> Tensor:
    """What losses are computed in: float32, or what is finer; autocast gives less."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def check_fit(needs: Iterable[TensorSpec], gives: Iterable[TensorSpec], consumer: str, provider: str) -> None:
    """Raises WiringError unless `provider` gives every tensor that `consumer` needs, with the same dtype and axes."""
    given = {spec.name: spec for spec in gives}
    for need in needs:
        have = given.get(need.name)
        if have is None:
            raise WiringError(
                f"{consumer} needs '{need.name}', but {provider} gives: {', '.join(given) or 'nothing'}. Add it or choose another {consumer.split()[0]}."
            )
        if have != need:
            raise WiringError(
                f"{consumer} needs '{need.name}' as {need.dtype}{list(need.axes)}, but {provider} gives {have.dtype}{list(have.axes)}. Make them agree."
            )

"""Tensor specifications, and the check that the outputs of one component fit the inputs of the next.

Each component declares its inputs and outputs once. The declarations are used to check how
components are connected, to name the dynamic axes of the graph, and to fill the manifest.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from palm_trainer.errors import WiringError

if TYPE_CHECKING:  # commands that only read data need no torch, which takes seconds to load
    from torch import Tensor

IGNORE = -100
"""Target without a label: special tokens, padding, unlabelled examples. Losses leave it out."""

NO_CLASS = -200
"""Target of a text that belongs to no class of a `classify` task."""

NO_SOFT_TARGET = -1.0
"""Placeholder for a missing soft target: special tokens, padding, or text that was changed."""

INT8_ROW_LEVELS = 127
"""Largest magnitude of an integer that stands for a number of a token's vector, or of an embedding."""
INT8_WEIGHT_LEVELS = 64
"""Largest magnitude of an integer weight. 255 * 64 * 2 = 32640 fits into 16 bits."""
INT8_MIN_MAGNITUDE = 1e-12
"""Replaces the largest magnitude of zeros."""
INT8_SCALE_BITS = 16
"""Bits of the scale of an embedding: with the 7 of an integer, fewer than the 24 that fp32 holds exactly."""

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
"""Names of the model's inputs in the Python API of the original PALM."""


def to_full_precision(tensor: "Tensor") -> "Tensor":
    """Cast to float32 for computing a loss. Float64 stays as it is."""
    import torch

    return tensor if tensor.dtype == torch.float64 else tensor.float()


def check_fit(needs: Iterable[TensorSpec], gives: Iterable[TensorSpec], consumer: str, provider: str) -> None:
    """Check that `provider` has every tensor that `consumer` needs, with the same dtype and axes.

    Args:
        needs: inputs of the consumer.
        gives: outputs of the provider.
        consumer: its description in the message, such as "head 'intent' (classify)".
        provider: its description in the message.

    Raises:
        WiringError: a tensor is missing, or has another dtype or other axes.
    """
    outputs = {spec.name: spec for spec in gives}
    for required in needs:
        output = outputs.get(required.name)
        if output is None:
            available = ", ".join(outputs) or "nothing"
            raise WiringError(
                f"{consumer} needs '{required.name}', but {provider} gives: {available}. "
                f"Add it or choose another {consumer.split()[0]}."
            )
        if output != required:
            raise WiringError(
                f"{consumer} needs '{required.name}' as {required.dtype}{list(required.axes)}, "
                f"but {provider} gives {output.dtype}{list(output.axes)}. Make them agree."
            )

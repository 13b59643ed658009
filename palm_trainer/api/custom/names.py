"""Names of arrays in custom components and in the engine, and the check that they match."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from palm_trainer.errors import WiringError
from palm_trainer.tensors import (
    EMBEDDING_TABLE,
    PALM_NAMES,
    POOLED_OUTPUT,
    SEQUENCE_OUTPUT,
)

Attrs = Mapping[str, Sequence[Any]]

_ENGINE = dict(zip(PALM_NAMES.values(), PALM_NAMES, strict=True))


NO_TOKENIZER = "{}"
"""Content of tokenizer.json where all readers are custom."""


FEATURES = {
    "encoder_outputs": SEQUENCE_OUTPUT,
    "sentence_embedding": POOLED_OUTPUT,
    "sentence_pair_embedding": POOLED_OUTPUT,
    "embedding_table": EMBEDDING_TABLE,
}
"""PALM's name of an output of a backbone -> the tensor of the engine."""


def check_attrs(needs: Attrs, provided: Attrs, consumer: str, provider: str) -> None:
    """Check that a provider has the arrays that a consumer needs, and warn of another dtype.

    Args:
        needs: arrays of the consumer.
        provided: arrays of the provider.
        consumer: name for messages.
        provider: name for messages.

    Raises:
        WiringError: an array is missing or has another shape.
    """
    for name, (shape, dtype) in needs.items():
        if name not in provided:
            raise WiringError(f"{consumer} needs '{name}', but {provider} gives: {', '.join(provided) or 'nothing'}.")
        provided_shape, provided_dtype = provided[name]
        if name == "input_mask":  # PALM's is [-1, -1, 1]
            continue
        if not _shapes_match(shape, provided_shape):
            raise WiringError(
                f"{consumer} needs '{name}' of shape {list(shape)}, but {provider} gives {list(provided_shape)}."
            )
        if str(dtype) != str(provided_dtype):
            warnings.warn(
                f"{consumer} declares '{name}' as {dtype}, but {provider} gives {provided_dtype}.", stacklevel=2
            )


def _shapes_match(needed: Sequence[int], provided: Sequence[int]) -> bool:
    """Return True for shapes of one length whose sizes are equal, or -1 in either."""
    if len(needed) != len(provided):
        return False
    return all(a == b or -1 in (a, b) for a, b in zip(needed, provided, strict=True))

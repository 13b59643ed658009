"""Names of arrays in custom parts and in the engine, and the checks between them."""

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

_ENGINE = {palm: ours for ours, palm in PALM_NAMES.items()}


NO_TOKENIZER = "{}"
"""In the place of tokenizer.json where all readers are the user's own."""


FEATURES = {
    "encoder_outputs": SEQUENCE_OUTPUT,
    "sentence_embedding": POOLED_OUTPUT,
    "sentence_pair_embedding": POOLED_OUTPUT,
    "embedding_table": EMBEDDING_TABLE,
}
"""PALM's name of what a backbone gives -> the engine's."""


def check_attrs(needs: Attrs, given: Attrs, consumer: str, provider: str) -> None:
    """Raises WiringError for a name that is not given or has another shape; warns of another dtype."""
    for name, (shape, dtype) in needs.items():
        if name not in given:
            raise WiringError(f"{consumer} needs '{name}', but {provider} gives: {', '.join(given) or 'nothing'}.")
        have, kind = given[name]
        if name == "input_mask":  # PALM's is [-1, -1, 1]
            continue
        if len(have) != len(shape) or any(a != b and -1 not in (a, b) for a, b in zip(shape, have, strict=True)):
            raise WiringError(f"{consumer} needs '{name}' of shape {list(shape)}, but {provider} gives {list(have)}.")
        if str(dtype) != str(kind):
            warnings.warn(f"{consumer} declares '{name}' as {dtype}, but {provider} gives {kind}.", stacklevel=2)

"""Padding of encodings into the arrays that a graph reads. Pure numpy. Training's evaluation also uses this module."""

from collections.abc import Sequence

import numpy as np

from palm_serve.types import Encoding, PaddedBatch

INPUT_IDS = "input_ids"
ATTENTION_MASK = "attention_mask"
TOKEN_TYPE_IDS = "token_type_ids"


def pad_batch(
    encodings: Sequence[Encoding], inputs: Sequence[str], pad_id: int = 0, length: int = 0, rows: int = 0
) -> PaddedBatch:
    """Pad encodings to int64 arrays `[batch, tokens]`.

    Rows that are added hold one unmasked pad token each, so that no softmax runs over nothing.

    Args:
        encodings: rows of the batch.
        inputs: names of the graph's inputs.
        pad_id: id of the padding token.
        length: fewest tokens of a row. The longest encoding may exceed it.
        rows: fewest rows of the batch.
    """
    lengths = np.array([len(encoding) for encoding in encodings], dtype=np.int64)
    shape = (max(rows, len(encodings)), max(length, int(lengths.max(initial=1))))
    ids = np.full(shape, pad_id, dtype=np.int64)
    mask = np.zeros(shape, dtype=np.int64)
    mask[len(encodings) :, 0] = 1
    types = np.zeros(shape, dtype=np.int64) if TOKEN_TYPE_IDS in inputs else None
    for row, encoding in enumerate(encodings):
        size = len(encoding)
        ids[row, :size] = encoding.input_ids
        mask[row, :size] = 1
        if types is not None:
            types[row, :size] = encoding.type_ids
    arrays = {INPUT_IDS: ids, ATTENTION_MASK: mask}
    if types is not None:
        arrays[TOKEN_TYPE_IDS] = types
    return PaddedBatch(arrays, lengths)

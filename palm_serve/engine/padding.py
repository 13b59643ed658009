"""Encodings -> the padded arrays that a graph takes. Pure numpy; training's evaluation pads here too."""

from collections.abc import Sequence

import numpy as np

from palm_serve.types import Encoding, PaddedBatch

INPUT_IDS, ATTENTION_MASK, TOKEN_TYPE_IDS = "input_ids", "attention_mask", "token_type_ids"


def pad_batch(
    encodings: Sequence[Encoding], inputs: Sequence[str], pad_id: int = 0, length: int = 0, rows: int = 0
) -> PaddedBatch:
    """Pads to the longest row, or to `length` tokens and `rows` rows where these are larger (shape buckets). Arrays are int64 [B, S].

    Rows added as filling hold one unmasked pad token each, so that no softmax runs over nothing.
    """
    lengths = np.array([len(e) for e in encodings], dtype=np.int64)
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

"""Random inputs of a comparison: shapes and token ids."""

from collections.abc import Iterator

import numpy as np

from palm_serve.types import Encoding

_MAX_ROWS = 32


def stratified_shapes(
    generator: np.random.Generator, max_length: int, count: int, max_tokens: int = 256
) -> list[tuple[int, int]]:
    """Draw `count` shapes: rows from 1 to 32, tokens from 1 to `max_length`.

    The corners come first. The others are a Latin hypercube that is even in the logarithms, because traces freeze
    small shapes most often. Long rows have smaller batches.

    Args:
        generator: source of randomness.
        max_length: largest number of tokens.
        count: number of shapes.
        max_tokens: tokens of a shape of several rows that is not a corner. Larger ones take long and find nothing more.
    """
    shapes = [(1, 1), (1, max_length), (_MAX_ROWS, 1), (_MAX_ROWS, max_length)]
    row_strata = (generator.permutation(count) + generator.random(count)) / count
    length_strata = (generator.permutation(count) + generator.random(count)) / count
    rows = np.floor((_MAX_ROWS + 1) ** row_strata).astype(int)
    lengths = np.floor((max_length + 1) ** length_strata).astype(int)
    rows = np.minimum(rows, np.maximum(1, max_tokens // lengths))
    for row_count, length in zip(rows.tolist(), lengths.tolist(), strict=True):
        shapes.append((row_count, length))
    return shapes[:count]


def random_encodings(generator: np.random.Generator, rows: int, length: int, vocab_size: int) -> Iterator[Encoding]:
    """Draw rows of random ids, each of random length.

    Args:
        generator: source of randomness.
        rows: number of rows.
        length: largest number of tokens.
        vocab_size: number of token ids.
    """
    for _ in range(rows):
        size = int(generator.integers(1, length + 1))
        ids = generator.integers(0, vocab_size, size)
        type_ids = generator.integers(0, 2, size)
        yield Encoding(ids.tolist(), type_ids.tolist(), [(0, 0)] * size, [0] * size)

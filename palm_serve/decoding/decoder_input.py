"""What a decoder knows of one row beside the graph's outputs."""

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
        """All rows of the item, in order."""
        return (self.encoding, *self.more)


def rows_of(items: Sequence[Item], chosen: Iterable[int]) -> list[int]:
    """Rows of some items in a batch that holds all items, one after the other."""
    ends = list(accumulate((len(item.rows) for item in items), initial=0))
    return [row for i in chosen for row in range(ends[i], ends[i + 1])]

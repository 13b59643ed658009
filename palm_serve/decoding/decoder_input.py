"""Input of a decoder beside the graph's outputs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain

from palm_serve.types import Encoding


@dataclass(frozen=True, slots=True)
class Item:
    """One row of a batch: its text, its encoding, and how many labels the ranking should hold (0: all).

    A passage that is read in windows has a row for each, one after the other: `more` are those after the first. A text
    whose context only some tasks read has two: with the context, and without it.
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


def row_groups(items: Sequence[Item], positions: Iterable[int]) -> list[range]:
    """Return the rows of each of some items in a batch that holds all items, one after the other."""
    ends = list(accumulate((len(item.rows) for item in items), initial=0))
    return [range(ends[position], ends[position + 1]) for position in positions]


def rows_of(items: Sequence[Item], positions: Iterable[int]) -> list[int]:
    """Return the rows of some items in a batch that holds all items, one after the other."""
    return list(chain.from_iterable(row_groups(items, positions)))


def own_rows(items: Sequence[Item], positions: Sequence[int], *, in_context: bool) -> tuple[list[int], list[Item]]:
    """Return the one row of each of some items that a task reads, and the items with this row alone.

    Args:
        items: all items of a batch. Those with two rows have one with their context, and then one without it.
        positions: items that the task answers.
        in_context: True if the task reads the context.
    """
    rows = []
    single_items = []
    for position, group in zip(positions, row_groups(items, positions), strict=True):
        item = items[position]
        number = 0 if in_context else len(group) - 1
        rows.append(group[number])
        single_items.append(replace(item, encoding=item.rows[number], more=()))
    return rows, single_items

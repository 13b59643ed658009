"""Building blocks of a page as plain data. The templates decide how they look."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias

from palm_trainer.tasks.mistakes import Mistake


@dataclass(frozen=True, slots=True)
class TableCell:
    """Text of a cell. `sort` is the value that it is sorted by, if that is not the text.

    `bar` from 0 to 1 is drawn behind the text. `link` is the address of a place in the page.
    """

    text: str
    sort: float | None = None
    bar: float | None = None
    link: str = ""


@dataclass(frozen=True)
class Table:
    """Sortable rows under a header. `hidden` is the number of further rows that are not shown."""

    kind: ClassVar[str] = "table"
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[TableCell]]
    text_columns: int = 1
    """Number of columns with text. They come first, the others hold numbers."""
    note: str = ""
    hidden: int = 0
    folded: bool = False

    @property
    def narrow(self) -> bool:
        """Return True if it may stand beside another block."""
        return len(self.columns) <= 3 and not self.folded


@dataclass(frozen=True)
class Figure:
    """A drawing with its legend, as pairs of a line's CSS class and its name.

    A `narrow` figure may stand beside another block.
    """

    kind: ClassVar[str] = "figure"
    title: str
    svg: str
    note: str = ""
    legend: Sequence[tuple[str, str]] = ()
    narrow: bool = False


@dataclass(frozen=True)
class Figures:
    """Drawings side by side, as the page width permits."""

    kind: ClassVar[str] = "figures"
    items: Sequence[Figure]


@dataclass(frozen=True)
class Matrix:
    """Counts of gold labels (rows) by predicted labels (columns).

    `heat` from 0 to 1 is the share of the row of the gold label.
    """

    kind: ClassVar[str] = "matrix"
    title: str
    labels: Sequence[str]
    counts: Sequence[Sequence[int]]
    heat: Sequence[Sequence[float]]
    note: str = ""
    links: Sequence[Sequence[str]] = ()
    """Place in the page of the answers of each cell. Empty: there is none."""


@dataclass(frozen=True)
class Mistakes:
    """Wrong answers, the most confident first.

    `hidden` is the number of those that are not shown. `links` are places in the page, one for each item or none.
    """

    kind: ClassVar[str] = "mistakes"
    title: str
    items: Sequence[Mistake]
    hidden: int = 0
    note: str = ""
    links: Sequence[str] = ()


@dataclass(frozen=True)
class AnswerList:
    """Answers that the script of the page lists and filters.

    `rows` is their JSON, which can stand in a script element. `listed` of them are in it, and `hidden` are not.
    """

    kind: ClassVar[str] = "answers"
    title: str
    rows: str
    listed: int
    hidden: int = 0


@dataclass(frozen=True)
class Code:
    """Text that a program reads or writes."""

    kind: ClassVar[str] = "code"
    title: str
    text: str
    note: str = ""
    folded: bool = False
    narrow: ClassVar[bool] = False


@dataclass(frozen=True)
class Note:
    """A sentence."""

    kind: ClassVar[str] = "note"
    text: str


Block: TypeAlias = Table | Figure | Figures | Matrix | Mistakes | AnswerList | Code | Note


@dataclass(frozen=True)
class ReportSection:
    """A section of the page with an anchor. `lead` is its first sentence."""

    anchor: str
    title: str
    lead: str = ""
    blocks: Sequence[Block] = field(default_factory=tuple)


def percent_cell(value: float | None, digits: int = 1, *, bar: bool = False) -> TableCell:
    """Format a fraction in per cent. None is shown as a dash and sorted below all numbers.

    Args:
        value: fraction from 0 to 1.
        digits: decimal places.
        bar: draw a bar behind it.
    """
    if value is None:
        return TableCell("–", -1.0)
    return TableCell(f"{100 * value:.{digits}f}", value, value if bar else None)


def count_cell(value: int, *, bar: float | None = None, link: str = "") -> TableCell:
    """Format a whole number.

    Args:
        value: the number.
        bar: length of its bar, from 0 to 1.
        link: place in the page that it leads to.
    """
    return TableCell(f"{value:,}", value, bar, link)

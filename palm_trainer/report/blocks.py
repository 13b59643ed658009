"""What a section of the report is made of. Plain data: how it looks is the template's business."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias

from palm_trainer.report.mistakes import Mistake


@dataclass(frozen=True, slots=True)
class TableCell:
    """A value as it is shown, and what it is sorted by where that differs. `bar` from 0 to 1 is drawn behind it."""

    text: str
    sort: float | None = None
    bar: float | None = None


@dataclass(frozen=True)
class Table:
    """Rows under a header, sortable. `numeric` columns are set to the right. `more` rows are not shown."""

    kind: ClassVar[str] = "table"
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[TableCell]]
    text_columns: int = 1
    """The first ones, which hold text; the others are numbers."""
    note: str = ""
    more: int = 0
    folded: bool = False

    @property
    def narrow(self) -> bool:
        """Whether it stands beside another block where there is room."""
        return len(self.columns) <= 3 and not self.folded


@dataclass(frozen=True)
class Figure:
    """A drawing with its legend: (class of the line, name) pairs. A `narrow` one stands beside another block where there is room."""

    kind: ClassVar[str] = "figure"
    title: str
    svg: str
    note: str = ""
    legend: Sequence[tuple[str, str]] = ()
    narrow: bool = False


@dataclass(frozen=True)
class Figures:
    """Drawings side by side, where there is room."""

    kind: ClassVar[str] = "figures"
    items: Sequence[Figure]


@dataclass(frozen=True)
class Matrix:
    """Counts of gold (rows) by predicted (columns) labels; `heat` from 0 to 1 is the share of the gold label's row."""

    kind: ClassVar[str] = "matrix"
    title: str
    labels: Sequence[str]
    counts: Sequence[Sequence[int]]
    heat: Sequence[Sequence[float]]
    note: str = ""


@dataclass(frozen=True)
class Mistakes:
    """Wrong answers, worst first. `more` of them are not shown."""

    kind: ClassVar[str] = "mistakes"
    title: str
    items: Sequence[Mistake]
    more: int = 0
    note: str = ""


@dataclass(frozen=True)
class Code:
    """Text as a program reads or writes it."""

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


Block: TypeAlias = Table | Figure | Figures | Matrix | Mistakes | Code | Note


@dataclass(frozen=True)
class ReportSection:
    """A part of the page with an anchor."""

    anchor: str
    title: str
    lead: str = ""
    blocks: Sequence[Block] = field(default_factory=tuple)


def percent(value: float | None, digits: int = 1, *, bar: bool = False) -> TableCell:
    """A fraction in per cent; a dash where there is none, sorted below all."""
    if value is None:
        return TableCell("–", -1.0)
    return TableCell(f"{100 * value:.{digits}f}", value, value if bar else None)


def count(value: int, *, bar: float | None = None) -> TableCell:
    """A whole number."""
    return TableCell(f"{value:,}", value, bar)

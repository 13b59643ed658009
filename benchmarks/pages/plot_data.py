"""What a plot shows. The pictures are made from this by draw.py, which needs matplotlib; nothing here does."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

_DRAWING = Path(__file__).with_name("draw.py")
_DIGITS = 5
"""Significant digits of a figure in a picture and in the digest: less than what differs from machine to machine."""


@dataclass(frozen=True)
class Point:
    """A figure: its value, its interval, and its goal, where it has them."""

    value: float
    low: float | None = None
    high: float | None = None
    goal: float | None = None


@dataclass(frozen=True)
class Panel:
    """One axis of a plot of points: its title, its points in the order of the plot's labels, and a line at a value."""

    title: str
    points: tuple[Point | None, ...]
    line: float | None = None


@dataclass(frozen=True)
class Dots:
    """Points with intervals, one row for each label, one panel for each quantity.

    Args:
        name: of the file, without its ending.
        title: what the picture shows, the beginning of its alternative text.
        labels: of the rows, from top to bottom.
        panels: side by side, two in a row.
        interval: what the bars are, for the legend. Empty where no point has one.
    """

    name: str
    title: str
    labels: tuple[str, ...]
    panels: tuple[Panel, ...]
    interval: str = ""

    @property
    def alt(self) -> str:
        """Return the alternative text: the title and all figures."""
        told = []
        for panel in self.panels:
            pairs = zip(self.labels, panel.points, strict=True)
            figures = [f"{label} = {_short(point.value)}" for label, point in pairs if point is not None]
            told.append(f"{panel.title} ({'; '.join(figures)})")
        return _alternative(self.title, told)


@dataclass(frozen=True)
class Line:
    """A line of a plot of lines."""

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Axes:
    """One pair of axes of a plot of lines."""

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    logarithmic: bool = False
    """The x-axis, and the y-axis where the values differ much."""


@dataclass(frozen=True)
class Curves:
    """Lines over a quantity.

    Args:
        name: of the file, without its ending.
        title: what the picture shows, the beginning of its alternative text.
        axes: side by side, two in a row.
    """

    name: str
    title: str
    axes: tuple[Axes, ...]

    @property
    def alt(self) -> str:
        """Return the alternative text: the title, and where each line begins and ends."""
        told = []
        for axes in self.axes:
            ends = []
            for line in axes.lines:
                ends.append(f"{line.label} from {_short(line.y[0])} to {_short(line.y[-1])}")
            told.append(f"{axes.title} ({'; '.join(ends)})")
        return _alternative(self.title, told)


Plot = Dots | Curves
SCHEMES = ("light", "dark")
"""Each plot has a picture for pages of each colour scheme."""


def file_names(plot: Plot) -> dict[str, str]:
    """Return the name of the picture by colour scheme."""
    return {scheme: f"{plot.name}_{scheme}.svg" for scheme in SCHEMES}


def digest_line(plot: Plot) -> str:
    """Return the comment that both pictures of a plot hold."""
    return f"<!-- data: {digest(plot)} -->"


def digest(plot: Plot) -> str:
    """Return what a picture of this plot carries: the hash of its figures and of the code that draws."""
    text = json.dumps(_rounded([type(plot).__name__, asdict(plot)]), sort_keys=True, ensure_ascii=False)
    drawing = _DRAWING.read_bytes()
    return hashlib.sha256(text.encode() + drawing).hexdigest()


def _alternative(title: str, panels: Sequence[str]) -> str:
    """Return a text without colons: Sphinx reads `a: b` as an option."""
    return f"{title}. {'. '.join(panels)}.".replace(": ", ", ")


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_rounded(item) for item in value]
    return value


def _short(value: float) -> str:
    """Return a figure with at most two digits behind the point."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}".rstrip("0").rstrip(".")

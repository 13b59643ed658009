"""What pages are made of: results, goals, blocks of Markdown, and sentences about where something was measured."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from common import mean_and_half_interval
from tables import lines

from pages.plot_data import Plot

NOT_MEASURED = "not measured yet"
MISSING = "**Not measured yet.** The command is below, under *Run it again*."
"""What stands in the place of figures that nobody has measured."""
_SHORT = 7
"""Digits of a commit."""
_WILSON_Z = 1.96


@dataclass(frozen=True)
class Goal:
    """What was to be reached, and what was.

    Args:
        what: the measurement.
        wanted: the goal as text, `at least 95.0 %`.
        reached: the result as text, with its interval where it has one; None where nothing was measured.
        met: True if the result is as good as the goal.
    """

    what: str
    wanted: str
    reached: str | None = None
    met: bool = False

    @property
    def verdict(self) -> str:
        """`met`, `missed` or `not measured yet`."""
        if self.reached is None:
            return NOT_MEASURED
        return "met" if self.met else "missed"

    def row(self) -> tuple[str, str, str, str]:
        """Return the row of a table of goals."""
        return self.what, self.wanted, self.reached or "", self.verdict


@dataclass
class Content:
    """What a page says beside its prose.

    Args:
        blocks: Markdown by the name of its place in the text.
        goals: of the page, in the order in which they are told.
        plots: by the name of their place in the text.
        headline: the result in one line, for the table of all pages.
    """

    blocks: dict[str, str] = field(default_factory=dict)
    goals: list[Goal] = field(default_factory=list)
    plots: dict[str, Plot] = field(default_factory=dict)
    headline: str = NOT_MEASURED


class Results:
    """The results files by name, and which of them were asked for."""

    def __init__(self, files: Mapping[str, Any]) -> None:
        self.files = dict(files)
        self.asked: set[str] = set()

    @classmethod
    def read(cls, folder: Path) -> "Results":
        """Read all files of a folder."""
        paths = sorted(folder.glob("*.json"))
        return cls({path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths})

    def get(self, name: str) -> Any:
        """Return the content of `NAME.json`, None where there is no such file."""
        self.asked.add(name)
        return self.files.get(name)


def at_least(what: str, wanted: float, value: float, shown: str, unit: str = "") -> Goal:
    """Return a goal that a larger value meets.

    Args:
        what: the measurement.
        wanted: the goal.
        value: what was reached, compared after rounding to two digits.
        shown: the value as text.
        unit: behind the goal, ` %` for instance.
    """
    return Goal(what, f"at least {wanted:g}{unit}", shown, round(value, 2) >= wanted)


def at_most(what: str, wanted: float, value: float, shown: str, unit: str = "") -> Goal:
    """Return a goal that a smaller value meets. The arguments are those of `at_least`."""
    return Goal(what, f"at most {wanted:g}{unit}", shown, round(value, 2) <= wanted)


def table(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Return a Markdown table, of which the first row is the head and the first `left` columns hold words."""
    return "\n".join(lines(rows, left))


def goals_table(goals: Sequence[Goal]) -> str:
    """Return goals beside results."""
    return table([("measurement", "goal", "reached", "verdict"), *(goal.row() for goal in goals)])


def rounds(values: Sequence[float], digits: int = 2) -> str:
    """Return the mean over rounds with the smallest and the largest: `1.19 (1.09 to 1.32)`."""
    text = f"{fmean(values):.{digits}f}"
    if len(values) < 2:
        return text
    return f"{text} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def interval(values: Sequence[float], digits: int = 2) -> str:
    """Return the mean with half its 95 % t-interval: `502 ± 31`."""
    mean, half = mean_and_half_interval(values)
    return f"{mean:,.{digits}f}" if math.isnan(half) else f"{mean:,.{digits}f} ± {half:,.{digits}f}"


def wilson(right: float, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share in per cent, by Wilson's method.

    Args:
        right: how many of the trials succeeded.
        count: trials.
    """
    share = right / count
    square = _WILSON_Z**2 / count
    middle = share + square / 2
    half = _WILSON_Z * math.sqrt(share * (1 - share) / count + square / (4 * count))
    return 100 * (middle - half) / (1 + square), 100 * (middle + half) / (1 + square)


def share(right: float, count: int) -> str:
    """Return a share in per cent with its interval: `95.0 (83.5 to 98.6)`."""
    low, high = wilson(right, count)
    return f"{100 * right / count:.1f} ({low:.1f} to {high:.1f})"


def measured(name: str, facts: Any) -> str:
    """Return the sentences about where and with what a file of results was measured.

    Args:
        name: of the file.
        facts: its content: an object with `machine`, `commit`, ..., or cells of trainings by name.
    """
    cells = [facts] if isinstance(facts, Mapping) and not _has_cells(facts) else _cells_of(facts)
    machines = _known(cells, "machine")
    commits = [text[:_SHORT] + ("+" if text.endswith("+") else "") for text in _known(cells, "commit")]
    told = f"Machine: {', '.join(machines) or 'not recorded'}. "
    told += f"Commit: {', '.join(f'`{text}`' for text in commits) or 'not recorded'}"
    if any(text.endswith("+") for text in commits):
        told += " (`+`: with changes that were not committed)"
    dates = _known(cells, "date")
    told += f". Date: {' to '.join(sorted({dates[0], dates[-1]}))}" if dates else ""
    bundles = _known(cells, "bundle")
    told += f". Bundle: `{bundles[0]}`" if bundles else ""
    return f"{told}. Results: `benchmarks/results/{name}.json`."


def _has_cells(facts: Mapping[str, Any]) -> bool:
    return bool(facts) and all(isinstance(value, Mapping) and "task" in value for value in facts.values())


def _cells_of(facts: Any) -> list[Mapping[str, Any]]:
    if isinstance(facts, Mapping):
        return list(facts.values())
    return [cell for cell in facts if isinstance(cell, Mapping)]


def _known(cells: Iterable[Mapping[str, Any]], key: str) -> list[str]:
    """Return the distinct values of a key, sorted."""
    return sorted({str(cell[key]) for cell in cells if cell.get(key)})

"""Markdown tables of cells: mean and 95 % t-interval over the seeds, and paired differences."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from common import mean_and_half_interval

Results = Sequence[Mapping[str, Any]]
"""Cells of a results file."""


def of(cells: Results, task: str, variant: str, metric: str, split: str = "test") -> list[Mapping[str, Any]]:
    """Cells of a variant that have the metric on a split."""
    return [c for c in cells if (c["task"], c["variant"]) == (task, variant) and metric in c.get(split, ())]


def by_seed(cells: Results, split: str, metric: str) -> list[float]:
    """A value a seed: the mean over its folds."""
    seeds = sorted({cell["seed"] for cell in cells})
    own = [[c[split][metric] for c in cells if c["seed"] == seed and metric in c[split]] for seed in seeds]
    return [sum(values) / len(values) for values in own if values]


def paired(first: Results, second: Results, metric: str, split: str = "test", other: str | None = None) -> list[float]:
    """First minus second, on cells of the same seed and fold: a value a fold (the mean over its seeds), or without folds a value a seed.

    The seeds of a fold share their test questions, so only folds count as independent. Cells without the metric have no part.
    `other`: what the metric is called in `second`.
    """
    there = other or metric
    one = {(c["fold"], c["seed"]): c[split][metric] for c in first if metric in c.get(split, ())}
    two = {(c["fold"], c["seed"]): c[split][there] for c in second if there in c.get(split, ())}
    groups: dict[Any, list[float]] = {}
    for fold, seed in sorted(one.keys() & two.keys(), key=str):
        groups.setdefault(seed if fold is None else fold, []).append(one[fold, seed] - two[fold, seed])
    return [sum(values) / len(values) for values in groups.values()]


def show(mean: float, half: float) -> str:
    """`91.23 ± 0.45`; without an interval where there is none."""
    return f"{mean:.2f}" if math.isnan(half) else f"{mean:.2f} ± {half:.2f}"


def shown(cells: Results, split: str, metric: str) -> str:
    """Mean and interval over the seeds; empty where no cell has the metric."""
    values = by_seed([c for c in cells if metric in c.get(split, ())], split, metric)
    return show(*mean_and_half_interval(values)) if values else ""


def difference(values: Sequence[float]) -> str:
    """`+0.30 (-0.10 to +0.70)`; without an interval where there is none."""
    mean, half = mean_and_half_interval(values)
    return f"{mean:+.2f}" + ("" if math.isnan(half) else f" ({mean - half:+.2f} to {mean + half:+.2f})")


def lines(rows: Sequence[Sequence[str]], left: int = 1) -> Iterator[str]:
    """A Markdown table, padded; the first row is its head, the first `left` columns hold words."""
    widths = [max(3, *(len(row[i]) for row in rows)) for i in range(len(rows[0]))]
    rule = ["---" if i < left else "---:" for i in range(len(widths))]
    for row in (rows[0], rule, *rows[1:]):
        cells = (
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield f"| {' | '.join(cells)} |"

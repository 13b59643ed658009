"""The results of tasks.py as a Markdown table: mean and 95 % t-interval over the seeds, and paired differences."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from common import mean_and_half_interval

Results = Sequence[Mapping[str, Any]]
"""Cells of the results file."""


class Row(NamedTuple):
    """A line of the table: a metric of a task's variant, in per cent, and what it should reach on test."""

    task: str
    variant: str
    name: str
    metric: str
    goal: float | None = None


class Difference(NamedTuple):
    """A line below the table: how much better the first variant is than the second."""

    task: str
    first: str
    second: str
    name: str
    metric: str


ROWS = (
    Row("sst2", "single", "SST-2 accuracy", "sentiment accuracy", 90.0),
    Row("mrpc", "single", "MRPC F1", "paraphrase f1", 86.0),
    Row("mrpc", "single", "MRPC accuracy", "paraphrase accuracy"),
    Row("wnut17", "single", "WNUT17 span F1", "entities f1", 40.0),
    *(
        Row("atis", variant, f"ATIS {name}, {told}", metric)
        for variant, told in (("api", "article's calls"), ("config", "same as config"), ("joint", "one pass"))
        for name, metric in (("intent", "intent accuracy"), ("slot F1", "slot f1"), ("exact match", "exact_match"))
    ),
    Row("chnsenticorp", "single", "ChnSentiCorp accuracy (scratch)", "sentiment accuracy", 86.0),
    Row("msra", "single", "MSRA sample span F1 (scratch)", "entities f1"),
    Row("msra", "single", "MSRA sample token accuracy", "entities token_accuracy"),
    *(
        Row("xquad", variant, f"XQuAD-en {name}, {told}", metric)
        for variant, told in (("alone", "MRC alone"), ("dnet", "with the D-Net auxiliaries"))
        for name, metric in (("EM", "answer exact_match"), ("F1", "answer f1"))
    ),
)
DIFFERENCES = (
    Difference("atis", "api", "config", "ATIS intent, article's calls - config", "intent accuracy"),
    Difference("atis", "api", "config", "ATIS slot F1, article's calls - config", "slot f1"),
    Difference("xquad", "dnet", "alone", "XQuAD-en EM, D-Net - alone", "answer exact_match"),
    Difference("xquad", "dnet", "alone", "XQuAD-en F1, D-Net - alone", "answer f1"),
)


def table(cells: Results) -> str:
    """All rows of which there is a cell. Folds are averaged within a seed, so that the interval is over seeds."""
    lines = [("task", "goal", "dev", "test", "cells"), ("---", "---:", "---:", "---:", "---:")]
    for row in ROWS:
        own = of(cells, row.task, row.variant, row.metric)
        if own:
            dev, test = (mean_and_half_interval(by_seed(own, split, row.metric)) for split in ("dev", "test"))
            goal = "" if row.goal is None else f"{row.goal:.1f} {'met' if test[0] >= row.goal else 'missed'}"
            lines.append((row.name, goal, show(*dev), show(*test), str(len(own))))
    text = "\n".join(_lines(lines))
    told = [line for difference in DIFFERENCES for line in _difference(cells, difference)]
    return text + ("\n\nPaired differences on test, 95 % t-interval:\n\n" + "\n".join(told) if told else "") + "\n"


def of(cells: Results, task: str, variant: str, metric: str) -> list[Mapping[str, Any]]:
    """Cells of a variant that have the metric on test."""
    return [c for c in cells if (c["task"], c["variant"]) == (task, variant) and metric in c["test"]]


def by_seed(cells: Results, split: str, metric: str) -> list[float]:
    """A value a seed: the mean over its folds."""
    seeds = sorted({cell["seed"] for cell in cells})
    own = [[c[split][metric] for c in cells if c["seed"] == seed and metric in c[split]] for seed in seeds]
    return [sum(values) / len(values) for values in own if values]


def paired(cells: Results, difference: Difference) -> list[float]:
    """First minus second, on cells of the same seed and fold: a value a fold (the mean over its seeds), or without folds a value a seed.

    The seeds of a fold share their test questions, so only folds count as independent.
    """
    first, second = (
        {(c["fold"], c["seed"]): c["test"][difference.metric] for c in of(cells, difference.task, v, difference.metric)}
        for v in (difference.first, difference.second)
    )
    groups: dict[Any, list[float]] = {}
    for fold, seed in sorted(first.keys() & second.keys(), key=str):
        groups.setdefault(seed if fold is None else fold, []).append(first[fold, seed] - second[fold, seed])
    return [sum(values) / len(values) for values in groups.values()]


def show(mean: float, half: float) -> str:
    """`91.23 ± 0.45`; without an interval where there is none."""
    return f"{mean:.2f}" if math.isnan(half) else f"{mean:.2f} ± {half:.2f}"


def _difference(cells: Results, difference: Difference) -> Iterator[str]:
    values = paired(cells, difference)
    if len(values) > 1:
        mean, half = mean_and_half_interval(values)
        folds = any(c["fold"] is not None for c in cells if c["task"] == difference.task)
        unit = "folds, each the mean over its seeds" if folds else "seeds"
        yield f"- {difference.name}: {mean:+.2f} ({mean - half:+.2f} to {mean + half:+.2f}) over {len(values)} {unit}"


def _lines(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns padded to one width."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        first, *numbers = (
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield f"| {' | '.join([first, *numbers])} |"

"""The results of fewshot.py as Markdown tables, with intervals over seeds and test utterances."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from common import mean_and_half_interval
from fewshot_arms import ARMS, GOALS, PRIMARY, ROWS, SECONDARY
from paired_bootstrap import Estimate, Scores, bootstrap, holm, unpack
from tables import lines

Results = Mapping[str, Mapping[str, Any]]
"""Cells by name."""
MARK = "fewshot"
"""Name of the section of docs/benchmarks/few_shot.md that holds the tables."""


class Contrast(NamedTuple):
    """The difference of two arms in a row."""

    row: str
    first: str
    second: str
    seeds: int
    estimate: Estimate


def tables(results: Results) -> str:
    """Return the table of accuracies and that of differences, as far as there are cells."""
    accuracies = _accuracies(results)
    if len(accuracies) == 1:
        return ""
    text = "Accuracy on test in per cent (SNIPS: intent and all slots right), with its 95 % interval over seeds and test utterances:\n\n"
    text += "\n".join(lines(accuracies)) + "\n"
    slots = _slots(results)
    if slots:
        text += "\nSlots, F1 of spans (mean, with the 95 % interval of the seeds):\n\n" + "\n".join(lines(slots)) + "\n"
    contrasts = [*_contrasts(results, (PRIMARY,)), *_contrasts(results, SECONDARY)]
    if contrasts:
        text += "\nPaired differences:\n\n" + "\n".join(lines(_differences(contrasts))) + "\n"
    removed = "\n".join(_removed(results))
    return text + (f"\nNear-duplicates of test texts left out of the encoders' data:\n\n{removed}\n" if removed else "")


def section(results: Results) -> str:
    """Return the tables as the page holds them, between their marks."""
    return f"<!-- {MARK} -->\n{tables(results).rstrip()}\n<!-- /{MARK} -->"


def scores_of(results: Results, row: str, arm: str) -> dict[int, Scores]:
    """Return the answers of an arm by seed, `[utterances]` of 0 and 1."""
    scores = {}
    for cell in results.values():
        if (cell["task"], cell["variant"]) == (row, arm):
            scores[cell["seed"]] = unpack(cell["correct"], cell["texts"]).astype(np.float64)
    return scores


def accuracy_of(results: Results, row: str, arm: str) -> Estimate | None:
    """Return the accuracy of an arm in per cent, None without cells."""
    scores = scores_of(results, row, arm)
    return bootstrap(100 * np.stack(list(scores.values()))) if scores else None


def difference_of(results: Results, row: str, first: str, second: str) -> Estimate | None:
    """Return the accuracy of the first arm minus that of the second in points, on the seeds that both have."""
    ours, theirs = scores_of(results, row, first), scores_of(results, row, second)
    seeds = sorted(ours.keys() & theirs.keys())
    return bootstrap(100 * np.stack([ours[seed] - theirs[seed] for seed in seeds])) if seeds else None


def _accuracies(results: Results) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("arm", "seeds", *(row.name for row in ROWS.values()))]
    variants = dict.fromkeys([*ARMS, *(str(cell["variant"]) for cell in results.values() if cell["task"] in ROWS)])
    for variant in variants:
        columns, seeds = [], set()
        for row in ROWS:
            estimate = accuracy_of(results, row, variant)
            columns.append(_accuracy(estimate, GOALS.get(variant, {}).get(row)))
            seeds |= {len(scores_of(results, row, variant))} - {0}
        if seeds:
            title = ARMS[variant].title if variant in ARMS else f"`{variant}`"
            rows.append((title, " to ".join(str(count) for count in sorted({min(seeds), max(seeds)})), *columns))
    return rows


def _slots(results: Results) -> list[tuple[str, ...]]:
    """Return the lines of the table of slots. Empty without cells."""
    columns = [key for key, row in ROWS.items() if row.has_slots]
    rows: list[tuple[str, ...]] = [("arm", *(ROWS[key].name for key in columns))]
    for name, arm in ARMS.items():
        cells = []
        for key in columns:
            found = [cell for cell in results.values() if (cell["task"], cell["variant"]) == (key, name)]
            cells.append(_mean_of([cell["test"]["slot_f1"] for cell in found]))
        if any(cells):
            rows.append((arm.title, *cells))
    return rows if len(rows) > 1 else []


def _mean_of(values: list[float]) -> str:
    """Return `72.16 ± 0.80`; empty without values."""
    if not values:
        return ""
    mean, half = mean_and_half_interval(values)
    return f"{mean:.2f}" if math.isnan(half) else f"{mean:.2f} ± {half:.2f}"


def _accuracy(estimate: Estimate | None, goal: float | None) -> str:
    """Return `84.10 (82.95 to 85.20), goal 84.0 met`; empty without an estimate."""
    if estimate is None:
        return ""
    text = f"{estimate.mean:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"
    if goal is None:
        return text
    return f"{text}, goal {goal:.1f} {'met' if round(estimate.mean, 2) >= goal else 'missed'}"


def _contrasts(results: Results, pairs: tuple[tuple[str, str], ...]) -> list[Contrast]:
    """Return the differences of pairs of arms in every row, on the seeds that both have."""
    contrasts = []
    for first, second in pairs:
        for row in ROWS:
            estimate = difference_of(results, row, first, second)
            if estimate is not None:
                seeds = scores_of(results, row, first).keys() & scores_of(results, row, second).keys()
                contrasts.append(Contrast(row, first, second, len(seeds), estimate))
    return contrasts


def _differences(contrasts: list[Contrast]) -> list[tuple[str, ...]]:
    """Return the lines of the table. The p-values of secondary contrasts are adjusted over all of them."""
    secondary = [contrast for contrast in contrasts if (contrast.first, contrast.second) != PRIMARY]
    adjusted = iter(holm([contrast.estimate.p_value for contrast in secondary]))
    rows: list[tuple[str, ...]] = [("row", "difference", "seeds", "points", "p")]
    for contrast in contrasts:
        is_primary = (contrast.first, contrast.second) == PRIMARY
        p_value = contrast.estimate.p_value if is_primary else next(adjusted)
        rows.append(
            (
                ROWS[contrast.row].name,
                f"`{contrast.first}` - `{contrast.second}`" + (" (primary)" if is_primary else ""),
                str(contrast.seeds),
                f"{contrast.estimate.mean:+.2f} ({contrast.estimate.low:+.2f} to {contrast.estimate.high:+.2f})",
                f"{p_value:.4f}" + ("" if is_primary else " (Holm)"),
            )
        )
    return rows


def _removed(results: Results) -> Iterator[str]:
    for cell in results.values():
        if "removed" in cell:
            counts = [f"{corpus} {count}" for corpus, count in cell["removed"].items() if count]
            yield f"- {cell['variant']}: {', '.join(counts) or 'none'}"

"""A result -> compare.html: a drawing of the differences with their intervals, the table, and how it was measured. It needs no other file."""

import base64
import hashlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from palm_trainer.compare.result import Comparison, Result
from palm_trainer.compare.statistics import DRAWS
from palm_trainer.compare.variants import OUT_OF_DOMAIN
from palm_trainer.model.atomic_files import write_file
from palm_trainer.report.blocks import Block, Cell, Figure, Note, Table, count, percent
from palm_trainer.report.charts import nice_ticks

METHOD = (
    "Equal budget: a task alone takes exactly as many batches of each of its data sets, of the same size, as the joint training takes of that "
    "data set, and is evaluated on dev as often; all else is as configured. Batches of other data sets are what the joint training has on top.",
    "Each training keeps the checkpoint that is best on dev by its own measure: "
    "the joint training by train.checkpoints.select, a task alone by the metric of the table.",
    f"Intervals are of 95 %, by a paired bootstrap of {DRAWS:,} draws over examples (the same for both sides and all seeds) and seeds, widened for the "
    "number of seeds. Micro-averages are computed anew in each draw. Examples count as independent of each other.",
)
_WIDTH, _ROW, _LEFT, _RIGHT, _TOP, _BOTTOM = 760, 34, 250, 16, 10, 42
_LONGEST = 34
"""Code points of a name in the drawing."""


def write_page(result: Result, config: Path, output: Path) -> None:
    """Writes the page; the file appears whole or not at all. Raises OSError where it cannot be written."""
    write_file(output, render(result, config), errors="replace")


def render(result: Result, config: Path) -> str:
    """The page of a result; `config` is what it was made from."""
    page = files("palm_trainer.report").joinpath("page")
    style, script = (page.joinpath(name).read_text("utf-8") for name in ("style.css", "table.js"))
    environment = Environment(
        loader=PackageLoader("palm_trainer.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("compare.html").render(
        name=config.stem,
        seeds=result.seeds,
        warnings=result.warnings,
        result_blocks=_result_blocks(result),
        method=METHOD,
        budget=_budget(result),
        style=style,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def forest(comparisons: Sequence[Comparison]) -> str:
    """SVG: a row a comparison, with its difference, its interval and a ring for each seed, in percentage points about an upright at zero."""
    values = [0.0]
    for one in comparisons:
        values += [one.difference.low, one.difference.high, *_by_seed(one)]
    low, high = 100 * min(values), 100 * max(values)
    margin = 0.06 * ((high - low) or 1.0)
    low, high = low - margin, high + margin

    def _x(points: float) -> str:
        return f"{_LEFT + (points - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT):.1f}"

    height = _TOP + _ROW * len(comparisons) + _BOTTOM
    bottom = height - _BOTTOM
    parts = []
    for tick in nice_ticks(low, high, 9):
        at = _x(tick)
        parts.append(f'<line class="grid" x1="{at}" x2="{at}" y1="{_TOP}" y2="{bottom}"/>')
        parts.append(f'<text x="{at}" y="{bottom + 16}" text-anchor="middle">{f"{tick:+.6g}" if tick else 0}</text>')
    parts.append(f'<line class="zero" x1="{_x(0)}" x2="{_x(0)}" y1="{_TOP}" y2="{bottom}"/>')
    for i, one in enumerate(comparisons):
        parts += _row(one, _TOP + _ROW * i + _ROW // 2, _x)
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(
        f'<text class="name" x="{middle}" y="{height - 6}" text-anchor="middle">← worse together · percentage points · better together →</text>'
    )
    label = "; ".join(f"{one.question.task} {one.metric} {one.question.domain}: {told(one)}" for one in comparisons)
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'


def told(one: Comparison) -> str:
    """`+0.52 [+0.10, +0.93]`, in percentage points."""
    found = one.difference
    return f"{100 * found.mean:+.2f} [{100 * found.low:+.2f}, {100 * found.high:+.2f}]"


def _row(one: Comparison, y: int, place: Callable[[float], str]) -> list[str]:
    style = one.verdict if one.verdict in ("helped", "hurt") else ""
    found, name = one.difference, f"{one.question.task}, {one.metric.replace('_', ' ')}"
    if one.question.domain == OUT_OF_DOMAIN:
        name += " (other domain)"
    shown = name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"
    parts = [
        f'<text class="row" x="{_LEFT - 12}" y="{y}" dy="4" text-anchor="end">{escape(shown)}<title>{escape(name)}</title></text>',
        f'<line class="interval {style}" x1="{place(100 * found.low)}" x2="{place(100 * found.high)}" y1="{y}" y2="{y}"/>',
    ]
    for seed, value in zip(one.joint, _by_seed(one), strict=True):
        title = f"seed {seed}: {100 * value:+.2f}"
        parts.append(f'<circle class="seed" cx="{place(100 * value)}" cy="{y}" r="3.5"><title>{title}</title></circle>')
    title = escape(f"{told(one)}: {one.verdict}")
    parts.append(
        f'<circle class="point {style}" cx="{place(100 * found.mean)}" cy="{y}" r="5"><title>{title}</title></circle>'
    )
    return parts


def _by_seed(one: Comparison) -> list[float]:
    return [one.joint[seed] - one.alone[seed] for seed in one.joint]


def _result_blocks(result: Result) -> list[Block]:
    legend = (("helped", "helped"), ("hurt", "hurt"), ("", "no difference shown"))
    note = "Dot: mean over the seeds; bar: 95 % interval; rings: single seeds."
    rows = [
        [
            Cell(one.question.task),
            Cell(one.metric),
            Cell(one.question.split),
            count(one.examples),
            *(percent(float(np.mean(list(side.values()))), 2) for side in (one.joint, one.alone)),
            Cell(told(one), one.difference.mean),
            Cell(f"{one.difference.p:.3f}", one.difference.p),
            Cell(one.verdict),
        ]
        for one in result.comparisons
    ]
    columns = ("task", "metric", "scored on", "examples", "joint", "alone", "difference [95 %]", "p", "verdict")
    return [
        Figure("Differences", forest(result.comparisons), note, legend),
        Table("Scores in per cent, mean over seeds", columns, rows, text_columns=3),
        *(Note(note) for note in result.notes),
    ]


def _budget(result: Result) -> Table:
    names = list(result.plan.joint.batches)
    rows = [
        [Cell(variant.name), *(count(variant.batches[n]) if n in variant.batches else Cell("–", -1.0) for n in names)]
        for variant in result.plan.variants
    ]
    return Table("Batches of each data set in a training", ("training", *names), rows)

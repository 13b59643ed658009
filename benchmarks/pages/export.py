"""Speed of exported graphs, beside PyTorch and Optimum."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from pages.parts import MISSING, Content, Goal, Results, at_least, goals_table, measured, table
from pages.plot_data import Dots, Panel, Point

_PLAIN = "CPU in fp32 (plain)"
_INT8 = f"CPU in int8 (int8) : {_PLAIN}"
_FP32_GOAL, _INT8_GOAL, _NEVER_SLOWER = 1.0, 1.7, 1.0
_SHAPES = ("1x16", "8x16", "32x16", "32x128")
"""Columns of the table: rows x tokens."""


def build(results: Results) -> Content:
    """Return the table of ratios, its plot, and the goals."""
    content = Content()
    found = results.get("export_speed")
    if found is None:
        content.blocks.update(ratios=MISSING, goals="", measured="")
        return content
    ratios = found["ratios"]
    own = {name: row for name, row in ratios.items() if name.endswith(f" : {_PLAIN}") and not name.startswith("best")}
    shapes = [shape for shape in _SHAPES if all(shape in row for row in own.values())]
    count = len(next(iter(ratios.values())))
    head = ("against the plain graph", *(shape.replace("x", " x ") for shape in shapes), f"mean of {count} shapes")
    rows = [head]
    labels, points = [], []
    for name, row in sorted(own.items(), key=lambda pair: -geometric_mean(list(pair[1].values()))):
        values = list(row.values())
        title = _title(name)
        labels.append(title)
        rows.append((title, *(f"{row[shape]:.2f}" for shape in shapes), f"{geometric_mean(values):.2f}"))
        points.append(Point(geometric_mean(values), min(values), max(values)))
    content.goals += goals(ratios)
    content.blocks.update(
        ratios=table(rows), goals=goals_table(content.goals), measured=measured("export_speed", found)
    )
    panel = Panel("times as fast as the plain graph, geometric mean", tuple(points), line=1.0)
    what = "Speed of exported graphs against the plain graph"
    content.plots["ratios"] = Dots("export_speed", what, tuple(labels), (panel,), f"range over {count} shapes")
    content.headline = f"best graph {told(ratios, 'best : Optimum')} times Optimum's best level"
    return content


def goals(ratios: Mapping[str, Mapping[str, float]]) -> list[Goal]:
    """Return the goals of the export, as far as they were measured."""
    found = []
    fp32 = [list(row.values()) for name, row in ratios.items() if "fp32" in name.partition(" : ")[0]]
    if fp32:
        best = max(fp32, key=geometric_mean)
        what = "fp32 graph of another variant or provider, mean against the plain graph"
        found.append(at_least(what, _FP32_GOAL, geometric_mean(best), f"{geometric_mean(best):.2f}"))
    if _INT8 in ratios:
        mean = geometric_mean(list(ratios[_INT8].values()))
        found.append(at_least("int8 on ONNX Runtime's CPU provider, mean", _INT8_GOAL, mean, f"{mean:.2f}"))
    for name, what in (("best : Optimum", "Optimum at its best level"), ("best : PyTorch", "PyTorch in bf16")):
        rows = [row for full_name, row in ratios.items() if full_name.startswith(name)]
        if rows:
            least = min(rows[0].values())
            goal = f"best graph against {what}, in every shape"
            found.append(at_least(goal, _NEVER_SLOWER, least, told(ratios, name)))
    return found


def told(ratios: Mapping[str, Mapping[str, float]], name: str) -> str:
    """Return the mean over the shapes and the least: `1.83 (never less than 1.34)`."""
    for full_name, row in ratios.items():
        if full_name.startswith(name):
            return f"{geometric_mean(list(row.values())):.2f} (never less than {min(row.values()):.2f})"
    return ""


def geometric_mean(values: Sequence[float]) -> float:
    """Return the geometric mean of ratios."""
    return math.exp(fmean(map(math.log, values)))


def _title(name: str) -> str:
    """Return `OpenVINO, bf16` for `OpenVINO in bf16 (plain) : CPU in fp32 (plain)`."""
    contender: Any = name.partition(" : ")[0]
    if contender == "control":
        return "the same graph again (noise)"
    provider, _, how = contender.partition(" in ")
    if not how:
        return str(contender)
    precision, _, variant = how.partition(" (")
    variant = variant.removesuffix(")")
    shown = f", {variant} graph" if variant not in ("plain", precision) else ""
    return f"{'ONNX Runtime' if provider == 'CPU' else provider}, {precision}{shown}"

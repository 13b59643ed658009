"""Forest plot of a comparison, as SVG: score differences with their confidence intervals."""

from collections.abc import Callable, Sequence
from html import escape

from palm_trainer.compare.result import Comparison
from palm_trainer.compare.statistics import NO_DIFFERENCE
from palm_trainer.compare.variants import OUT_OF_DOMAIN
from palm_trainer.report.charts import round_ticks

_WIDTH = 760
_ROW_HEIGHT = 34
_LEFT = 250
_RIGHT = 16
_TOP = 10
_BOTTOM = 42
_TICKS = 9
_NAME_LENGTH = 34
"""Code points of a row's name that have room."""
_X_NAME = "← worse together · percentage points · better together →"


def draw_forest_plot(comparisons: Sequence[Comparison]) -> str:
    """Draw one row per comparison: the difference, its interval and a ring for each seed.

    The x axis is in percentage points. A vertical line marks zero.
    """
    low, high = _value_range(comparisons)

    def _x(points: float) -> str:
        return f"{_LEFT + (points - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT):.1f}"

    height = _TOP + _ROW_HEIGHT * len(comparisons) + _BOTTOM
    bottom = height - _BOTTOM
    elements = []
    for tick in round_ticks(low, high, _TICKS):
        x = _x(tick)
        text = f"{tick:+.6g}" if tick else "0"
        elements.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{_TOP}" y2="{bottom}"/>')
        elements.append(f'<text x="{x}" y="{bottom + 16}" text-anchor="middle">{text}</text>')
    elements.append(f'<line class="zero" x1="{_x(0)}" x2="{_x(0)}" y1="{_TOP}" y2="{bottom}"/>')
    descriptions = []
    for index, comparison in enumerate(comparisons):
        elements += _draw_row(comparison, _TOP + _ROW_HEIGHT * index + _ROW_HEIGHT // 2, _x)
        task = comparison.scored_task
        descriptions.append(f"{task.task} {comparison.metric} {task.domain}: {format_difference(comparison)}")
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    elements.append(f'<text class="name" x="{middle}" y="{height - 6}" text-anchor="middle">{_X_NAME}</text>')
    label = escape("; ".join(descriptions))
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{label}">{"".join(elements)}</svg>'


def format_difference(comparison: Comparison) -> str:
    """Format a difference with its interval in percentage points, as in `+0.52 [+0.10, +0.93]`."""
    difference = comparison.difference
    return f"{100 * difference.mean:+.2f} [{100 * difference.low:+.2f}, {100 * difference.high:+.2f}]"


def _value_range(comparisons: Sequence[Comparison]) -> tuple[float, float]:
    """Return the range of the plot in percentage points: all intervals, zero and a margin."""
    values = [0.0]
    for comparison in comparisons:
        values += [comparison.difference.low, comparison.difference.high]
        values += _differences_by_seed(comparison).values()
    low = 100 * min(values)
    high = 100 * max(values)
    margin = 0.06 * ((high - low) or 1.0)
    return low - margin, high + margin


def _draw_row(comparison: Comparison, y: int, x_of: Callable[[float], str]) -> list[str]:
    difference = comparison.difference
    style = "" if comparison.verdict == NO_DIFFERENCE else comparison.verdict
    name = f"{comparison.scored_task.task}, {comparison.metric.replace('_', ' ')}"
    if comparison.scored_task.domain == OUT_OF_DOMAIN:
        name += " (other domain)"
    short_name = name if len(name) <= _NAME_LENGTH else name[: _NAME_LENGTH - 1] + "…"
    low = x_of(100 * difference.low)
    high = x_of(100 * difference.high)
    elements = [
        f'<text class="row" x="{_LEFT - 12}" y="{y}" dy="4" text-anchor="end">{escape(short_name)}'
        f"<title>{escape(name)}</title></text>",
        f'<line class="interval {style}" x1="{low}" x2="{high}" y1="{y}" y2="{y}"/>',
    ]
    for seed, seed_difference in _differences_by_seed(comparison).items():
        x = x_of(100 * seed_difference)
        title = f"seed {seed}: {100 * seed_difference:+.2f}"
        elements.append(f'<circle class="seed" cx="{x}" cy="{y}" r="3.5"><title>{title}</title></circle>')
    title = escape(f"{format_difference(comparison)}: {comparison.verdict}")
    x = x_of(100 * difference.mean)
    elements.append(f'<circle class="point {style}" cx="{x}" cy="{y}" r="5"><title>{title}</title></circle>')
    return elements


def _differences_by_seed(comparison: Comparison) -> dict[int, float]:
    differences = {}
    for seed, joint_score in comparison.joint_scores.items():
        differences[seed] = joint_score - comparison.alone_scores[seed]
    return differences

"""SVG drawings, each a function from numbers to a string. Colours are classes of the page's style sheet; every text is escaped."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from palm_trainer.report.reliability import Bin

WIDTH, HEIGHT = 460, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 40


@dataclass(frozen=True, slots=True)
class Line:
    """A curve: points, its class, and whether each point gets a dot. `titles` are told when a dot is pointed at."""

    points: Sequence[tuple[float, float]]
    style: str
    dots: bool = False
    titles: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class _Axis:
    """Values low to high -> places from..to; `log` spaces by ratio."""

    low: float
    high: float
    begin: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, max(value, self.floor)))
        return self.begin + (value - low) / ((high - low) or 1.0) * (self.end - self.begin)

    @property
    def floor(self) -> float:
        return self.low if self.log else -math.inf

    def ticks(self) -> list[float]:
        if self.log:
            exponents = range(round(math.log10(self.low)), round(math.log10(self.high)) + 1)
            return [10.0**e for e in exponents]
        return nice_ticks(self.low, self.high)


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round values (1, 2 or 5 times a power of ten) from low to high."""
    span = (high - low) or 1.0
    size = 10.0 ** math.floor(math.log10(span / count))
    step = next(size * factor for factor in (1, 2, 5, 10) if span / (size * factor) <= count)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def line_chart(
    lines: Sequence[Line],
    *,
    label: str,
    x_name: str,
    y_name: str,
    log: bool = False,
    best: float | None = None,
    y_range: tuple[float, float] | None = None,
) -> str:
    """Curves over one x axis. `best` marks an x with an upright; `log` wants positive values; `label` says in words what is drawn."""
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    low, high = y_range or (min(ys), max(ys))
    if log:
        low, high = 10.0 ** math.floor(math.log10(low)), 10.0 ** math.ceil(math.log10(high))
        high = high if high > low else 10 * low
    x_axis = _Axis(min(0.0, *xs), max(xs), _LEFT, WIDTH - _RIGHT)
    y_axis = _Axis(low, high, HEIGHT - _BOTTOM, _TOP, log)
    parts = [*_axes(x_axis, y_axis, x_name, y_name)]
    if best is not None:
        parts.append(
            _upright(x_axis(best), "best", "end" if x_axis(best) > WIDTH / 2 else "start", HEIGHT - _BOTTOM - 6)
        )
    for line in lines:
        placed = [(_number(x_axis(x)), _number(y_axis(y))) for x, y in line.points]
        parts.append(f'<polyline class="{line.style}" points="{" ".join(f"{x},{y}" for x, y in placed)}"/>')
        if line.dots:
            titles = line.titles or [""] * len(placed)
            for (x, y), title in zip(placed, titles, strict=True):
                parts.append(
                    f'<circle class="{line.style}" cx="{x}" cy="{y}" r="3"><title>{escape(title)}</title></circle>'
                )
    return _svg(parts, label)


def reliability_chart(bins: Sequence[Bin], *, label: str) -> str:
    """Share of right answers by confidence against the diagonal, under a line that tells how many answers each bin holds."""
    x_axis = _Axis(0.0, 1.0, _LEFT, WIDTH - _RIGHT)
    y_axis = _Axis(0.0, 1.0, HEIGHT - _BOTTOM, _TOP + 16)
    parts = [*_axes(x_axis, y_axis, "confidence", "share right")]
    for one in bins:
        left, width = x_axis(one.low) + 1, x_axis(one.high) - x_axis(one.low) - 2
        told = f"confidence {one.low:.1f} to {one.high:.1f}: {one.count} answers, {one.accuracy:.1%} right, mean confidence {one.confidence:.1%}"
        low, high = sorted((one.accuracy, one.confidence))
        parts.append(_rect("bar", left, y_axis(low), width, y_axis(0) - y_axis(low), told))
        style = "gap" if one.accuracy < one.confidence else "spare"
        parts.append(_rect(style, left, y_axis(high), width, y_axis(low) - y_axis(high), told))
        middle = _number(left + width / 2)
        parts.append(f'<text class="count" x="{middle}" y="{_TOP + 8}" text-anchor="middle">{_tick(one.count)}</text>')
    ends = (_number(axis(value)) for value in (0.0, 1.0) for axis in (x_axis, y_axis))
    parts.append('<line class="diagonal" x1="{}" y1="{}" x2="{}" y2="{}"/>'.format(*ends))
    return _svg(parts, label)


def histogram(values: Sequence[int], *, label: str, x_name: str, limit: int | None = None, columns: int = 40) -> str:
    """How many values lie in each of some equal ranges of whole numbers; `limit` marks a value with an upright."""
    low, high = min(values), max(values)
    width = max(1, -(-(high - low + 1) // columns))
    counts = [0] * ((high - low) // width + 1)
    for value in values:
        counts[(value - low) // width] += 1
    end = low + width * len(counts)
    # a limit far beyond all values would squeeze them; the text beside the drawing tells it then
    cut = limit + 1 if limit is not None and limit <= low + 1.5 * (end - low) else None
    x_axis = _Axis(min(low, cut or low), max(end, cut or end), _LEFT, WIDTH - _RIGHT)
    y_axis = _Axis(0, max(counts), HEIGHT - _BOTTOM, _TOP)
    parts = [*_axes(x_axis, y_axis, x_name, "texts")]
    for i, number in enumerate(counts):
        first = low + i * width
        beyond = limit is not None and first > limit
        told = f"{first}{f' to {first + width - 1}' if width > 1 else ''} tokens: {number}"
        left, right = x_axis(first), x_axis(first + width)
        parts.append(
            _rect(
                "beyond" if beyond else "bar",
                left,
                y_axis(number),
                max(0.5, right - left - 1),
                y_axis(0) - y_axis(number),
                told,
            )
        )
    if cut is not None:
        at, side = x_axis(cut), "end" if x_axis(cut) > WIDTH / 2 else "start"
        parts.append(_upright(at, f"cut at {limit}", side, _TOP + 12))
    return _svg(parts, label)


def _axes(x_axis: _Axis, y_axis: _Axis, x_name: str, y_name: str) -> list[str]:
    parts = []
    for value in y_axis.ticks():
        at = _number(y_axis(value))
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{at}" y2="{at}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{at}" dy="4" text-anchor="end">{_tick(value)}</text>')
    for value in x_axis.ticks():
        at = _number(x_axis(value))
        parts.append(f'<text x="{at}" y="{HEIGHT - _BOTTOM + 16}" text-anchor="middle">{_tick(value)}</text>')
    parts.append(
        f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{HEIGHT - _BOTTOM}" y2="{HEIGHT - _BOTTOM}"/>'
    )
    middle = (_TOP + HEIGHT - _BOTTOM) / 2
    parts.append(
        f'<text class="name" x="{(_LEFT + WIDTH - _RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_name)}</text>'
    )
    parts.append(
        f'<text class="name" x="12" y="{middle}" text-anchor="middle" transform="rotate(-90 12 {middle})">{escape(y_name)}</text>'
    )
    return parts


def _rect(style: str, x: float, y: float, width: float, height: float, title: str) -> str:
    place = f'x="{_number(x)}" y="{_number(y)}" width="{_number(width)}" height="{_number(height)}"'
    return f'<rect class="{style}" {place}><title>{escape(title)}</title></rect>'


def _upright(at: float, text: str, side: str, height: float) -> str:
    """A dashed line from bottom to top, with a word at its left (`end`) or right (`start`)."""
    place = _number(at - 5 if side == "end" else at + 5)
    return (
        f'<line class="best" x1="{_number(at)}" x2="{_number(at)}" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}"/>'
        f'<text class="best-label" x="{place}" y="{_number(height)}" text-anchor="{side}">{escape(text)}</text>'
    )


def _svg(parts: Sequence[str], label: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _tick(value: float) -> str:
    if value >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:.6g}"

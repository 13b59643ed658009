"""Charts as SVG strings. Colours are CSS classes of the page, and every text is escaped."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from palm_trainer.report.reliability import ConfidenceBin

WIDTH = 460
HEIGHT = 240
_LEFT = 52
_RIGHT = 12
_TOP = 12
_BOTTOM = 40


@dataclass(frozen=True, slots=True)
class Line:
    """A curve with the CSS class of its line. `dots` draws a dot at each point, with its title."""

    points: Sequence[tuple[float, float]]
    style: str
    dots: bool = False
    titles: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class _Axis:
    """Map from the values low to high to the pixels begin to end. `log` maps logarithms."""

    low: float
    high: float
    begin: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the pixel of a value."""
        low = self.low
        high = self.high
        if self.log:
            value = math.log10(max(value, low))
            low = math.log10(low)
            high = math.log10(high)
        return self.begin + (value - low) / ((high - low) or 1.0) * (self.end - self.begin)

    def ticks(self) -> list[float]:
        """Return round values from low to high."""
        if not self.log:
            return round_ticks(self.low, self.high)
        exponents = range(round(math.log10(self.low)), round(math.log10(self.high)) + 1)
        return [10.0**exponent for exponent in exponents]


def round_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return round values from low to high: multiples of 1, 2 or 5 times a power of ten.

    Args:
        low: smallest value.
        high: largest value.
        count: approximate number of ticks.
    """
    span = (high - low) or 1.0
    magnitude = 10.0 ** math.floor(math.log10(span / count))
    step = 10 * magnitude
    for factor in (1, 2, 5):
        if span / (magnitude * factor) <= count:
            step = magnitude * factor
            break
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def draw_line_chart(
    lines: Sequence[Line],
    *,
    label: str,
    x_name: str,
    y_name: str,
    log: bool = False,
    best: float | None = None,
    y_range: tuple[float, float] | None = None,
) -> str:
    """Draw curves over one x axis.

    Args:
        lines: the curves.
        label: description in words, for screen readers.
        x_name: name of the x axis.
        y_name: name of the y axis.
        log: use a logarithmic y axis. All values must then be positive.
        best: x value to mark with a vertical line.
        y_range: lowest and highest y value. The default is the range of the curves.
    """
    xs: list[float] = []
    ys: list[float] = []
    for line in lines:
        xs += [x for x, _ in line.points]
        ys += [y for _, y in line.points]
    low, high = y_range or (min(ys), max(ys))
    if log:
        low = 10.0 ** math.floor(math.log10(low))
        high = max(10.0 ** math.ceil(math.log10(high)), 10 * low)
    x_axis = _Axis(min(0.0, *xs), max(xs), _LEFT, WIDTH - _RIGHT)
    y_axis = _Axis(low, high, HEIGHT - _BOTTOM, _TOP, log)
    elements = _draw_axes(x_axis, y_axis, x_name, y_name)
    if best is not None:
        elements.append(_draw_marker(x_axis(best), "best", HEIGHT - _BOTTOM - 6))
    for line in lines:
        elements += _draw_line(line, x_axis, y_axis)
    return _to_svg(elements, label)


def draw_reliability_chart(bins: Sequence[ConfidenceBin], *, label: str) -> str:
    """Draw the accuracy by confidence and its diagonal.

    The number of answers stands above each bin.
    """
    x_axis = _Axis(0.0, 1.0, _LEFT, WIDTH - _RIGHT)
    y_axis = _Axis(0.0, 1.0, HEIGHT - _BOTTOM, _TOP + 16)
    elements = _draw_axes(x_axis, y_axis, "confidence", "accuracy")
    for confidence_bin in bins:
        elements += _draw_bin(confidence_bin, x_axis, y_axis)
    elements.append(
        f'<line class="diagonal" x1="{_format_number(x_axis(0.0))}" y1="{_format_number(y_axis(0.0))}"'
        f' x2="{_format_number(x_axis(1.0))}" y2="{_format_number(y_axis(1.0))}"/>'
    )
    return _to_svg(elements, label)


def draw_histogram(
    values: Sequence[int], *, label: str, x_name: str, limit: int | None = None, columns: int = 40
) -> str:
    """Draw the number of values in equal ranges of whole numbers.

    Args:
        values: token lengths of texts.
        label: description in words, for screen readers.
        x_name: name of the x axis.
        limit: value to mark with a vertical line. Longer texts are truncated.
        columns: largest number of ranges.
    """
    low = min(values)
    width = max(1, -(-(max(values) - low + 1) // columns))
    counts = [0] * ((max(values) - low) // width + 1)
    for value in values:
        counts[(value - low) // width] += 1
    end = low + width * len(counts)
    x_low = low
    x_high = end
    marker = None
    # A limit far above all values would squeeze them. The text next to the chart contains the limit.
    if limit is not None and limit <= low + 1.5 * (end - low):
        marker = limit + 1
        x_low = min(low, marker)
        x_high = max(end, marker)
    x_axis = _Axis(x_low, x_high, _LEFT, WIDTH - _RIGHT)
    y_axis = _Axis(0, max(counts), HEIGHT - _BOTTOM, _TOP)
    elements = _draw_axes(x_axis, y_axis, x_name, "texts")
    for index, count in enumerate(counts):
        first = low + index * width
        style = "beyond" if limit is not None and first > limit else "bar"
        value_range = f"{first} to {first + width - 1}" if width > 1 else f"{first}"
        bar_x = x_axis(first)
        bar_width = max(0.5, x_axis(first + width) - bar_x - 1)
        title = f"{value_range} tokens: {count}"
        elements.append(_draw_rectangle(style, bar_x, y_axis(count), bar_width, y_axis(0) - y_axis(count), title))
    if marker is not None:
        elements.append(_draw_marker(x_axis(marker), f"truncated at {limit}", _TOP + 12))
    return _to_svg(elements, label)


def _draw_line(line: Line, x_axis: _Axis, y_axis: _Axis) -> list[str]:
    points = []
    for x_value, y_value in line.points:
        points.append((_format_number(x_axis(x_value)), _format_number(y_axis(y_value))))
    path = " ".join(map(",".join, points))
    elements = [f'<polyline class="{line.style}" points="{path}"/>']
    if line.dots:
        titles = line.titles or [""] * len(points)
        for (x, y), title in zip(points, titles, strict=True):
            elements.append(
                f'<circle class="{line.style}" cx="{x}" cy="{y}" r="3"><title>{escape(title)}</title></circle>'
            )
    return elements


def _draw_bin(
    confidence_bin: ConfidenceBin, x_axis: Callable[[float], float], y_axis: Callable[[float], float]
) -> list[str]:
    """Draw the accuracy of a bin as a bar, its difference from the confidence, and its count."""
    accuracy = confidence_bin.accuracy
    confidence = confidence_bin.confidence
    bar_x = x_axis(confidence_bin.low) + 1
    width = x_axis(confidence_bin.high) - x_axis(confidence_bin.low) - 2
    title = (
        f"confidence {confidence_bin.low:.1f} to {confidence_bin.high:.1f}: {confidence_bin.count} answers, "
        f"accuracy {accuracy:.1%}, mean confidence {confidence:.1%}"
    )
    low, high = sorted((accuracy, confidence))
    style = "gap" if accuracy < confidence else "spare"
    middle = _format_number(bar_x + width / 2)
    count = _format_tick(confidence_bin.count)
    return [
        _draw_rectangle("bar", bar_x, y_axis(low), width, y_axis(0) - y_axis(low), title),
        _draw_rectangle(style, bar_x, y_axis(high), width, y_axis(low) - y_axis(high), title),
        f'<text class="count" x="{middle}" y="{_TOP + 8}" text-anchor="middle">{count}</text>',
    ]


def _draw_axes(x_axis: _Axis, y_axis: _Axis, x_name: str, y_name: str) -> list[str]:
    right = WIDTH - _RIGHT
    bottom = HEIGHT - _BOTTOM
    elements = []
    for value in y_axis.ticks():
        y = _format_number(y_axis(value))
        elements.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y}" y2="{y}"/>')
        elements.append(f'<text x="{_LEFT - 6}" y="{y}" dy="4" text-anchor="end">{_format_tick(value)}</text>')
    for value in x_axis.ticks():
        x = _format_number(x_axis(value))
        elements.append(f'<text x="{x}" y="{bottom + 16}" text-anchor="middle">{_format_tick(value)}</text>')
    elements.append(f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    x_middle = (_LEFT + right) / 2
    y_middle = (_TOP + bottom) / 2
    elements.append(f'<text class="name" x="{x_middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_name)}</text>')
    elements.append(
        f'<text class="name" x="12" y="{y_middle}" text-anchor="middle"'
        f' transform="rotate(-90 12 {y_middle})">{escape(y_name)}</text>'
    )
    return elements


def _draw_rectangle(style: str, x: float, y: float, width: float, height: float, title: str) -> str:
    position = f'x="{_format_number(x)}" y="{_format_number(y)}"'
    size = f'width="{_format_number(width)}" height="{_format_number(height)}"'
    return f'<rect class="{style}" {position} {size}><title>{escape(title)}</title></rect>'


def _draw_marker(x: float, text: str, text_y: float) -> str:
    """Draw a dashed vertical line with a text on the side that has more room."""
    text_is_left = x > WIDTH / 2
    anchor = "end" if text_is_left else "start"
    text_x = _format_number(x - 5 if text_is_left else x + 5)
    line_x = _format_number(x)
    return (
        f'<line class="best" x1="{line_x}" x2="{line_x}" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}"/>'
        f'<text class="best-label" x="{text_x}" y="{_format_number(text_y)}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def _to_svg(elements: Sequence[str], label: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{"".join(elements)}</svg>'


def _format_number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _format_tick(value: float) -> str:
    if value >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:.6g}"

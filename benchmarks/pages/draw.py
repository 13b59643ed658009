"""Draw plots as SVG with matplotlib, once for light and once for dark pages.

Text stays text. The same figures give the same bytes: ids come from a fixed salt, and no date is written.
"""

import io
import math
import re
from typing import Any

from pages.plot_data import SCHEMES, Axes, Curves, Dots, Panel, Plot, digest_line

_COLOURS = {
    "#010101": ("#1f2328", "#e6edf3"),
    "#020202": ("#59636e", "#9da7b3"),
    "#030303": ("#d8dee4", "#343b44"),
    "#040404": ("#0969da", "#58a6ff"),
    "#050505": ("#bc4c00", "#f0883e"),
    "#060606": ("#1a7f37", "#56d364"),
    "#070707": ("#8250df", "#bc8cff"),
}
"""Colour in matplotlib -> colour on a light page, colour on a dark page."""
INK, SOFT, GRID, *SERIES = _COLOURS
_MEASURED = {"color": SERIES[0], "markersize": 5.5}
_GOAL = {"color": SERIES[1], "fillstyle": "none", "markersize": 5.5, "markeredgewidth": 1.4}
_WIDTH = 7.2
_ROW = 0.27
"""Inches."""
_STEEP = 5
"""Times the smallest value of a line, above which its axis is logarithmic, if it may be."""
_LONG = 100_000
"""Numbers from here on are written without an exponent."""
_FEW = 8
"""Points of a line that are marked one by one."""
_SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "palm",
    "font.family": "sans-serif",
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": SOFT,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": SOFT,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
}


def draw(plot: Plot) -> dict[str, str]:
    """Return the pictures of a plot as SVG text, by colour scheme."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    with matplotlib.rc_context(_SETTINGS):
        figure = _dots(pyplot, plot) if isinstance(plot, Dots) else _curves(pyplot, plot)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        pyplot.close(figure)
    return {scheme: _coloured(buffer.getvalue(), plot, scheme) for scheme in SCHEMES}


def _dots(pyplot: Any, plot: Dots) -> Any:
    columns = min(2, len(plot.panels))
    rows = math.ceil(len(plot.panels) / columns)
    height = rows * (0.62 + _ROW * len(plot.labels)) + 0.35
    figure, grid = pyplot.subplots(
        rows, columns, figsize=(_WIDTH, height), sharey=True, squeeze=False, layout="constrained"
    )
    positions = list(range(len(plot.labels)))
    for axes, panel in zip(grid.flat, plot.panels, strict=False):
        _panel(axes, panel)
        axes.set_yticks(positions, plot.labels)
        axes.set_ylim(len(positions) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
    for axes in grid.flat[len(plot.panels) :]:
        axes.set_visible(False)
    _dots_legend(figure, plot)
    return figure


def _panel(axes: Any, panel: Panel) -> None:
    """Draw points, intervals and goals."""
    axes.set_title(panel.title)
    if panel.line is not None:
        axes.axvline(panel.line, color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
    points = [(position, point) for position, point in enumerate(panel.points) if point is not None]
    bars = [(position, point.low, point.high) for position, point in points if point.low is not None]
    if bars:
        axes.hlines(*zip(*bars, strict=True), color=SERIES[0], linewidth=2)
    axes.plot([point.value for _, point in points], [position for position, _ in points], "o", **_MEASURED)
    goals = [(point.goal, position) for position, point in points if point.goal is not None]
    if goals:
        axes.plot(*zip(*goals, strict=True), "D", **_GOAL)
    axes.margins(x=0.08)
    axes.locator_params(axis="x", nbins=5)


def _dots_legend(figure: Any, plot: Dots) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], marker="o", linestyle="", label="measured", **_MEASURED)]
    if plot.interval:
        handles.append(Line2D([], [], color=SERIES[0], linewidth=2, label=plot.interval))
    if any(point is not None and point.goal is not None for panel in plot.panels for point in panel.points):
        handles.append(Line2D([], [], marker="D", linestyle="", label="goal", **_GOAL))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))


def _curves(pyplot: Any, plot: Curves) -> Any:
    columns = min(2, len(plot.axes))
    rows = math.ceil(len(plot.axes) / columns)
    figure, grid = pyplot.subplots(rows, columns, figsize=(_WIDTH, 2.9 * rows), squeeze=False, layout="constrained")
    for axes, described in zip(grid.flat, plot.axes, strict=False):
        _lines(axes, described)
    for axes in grid.flat[len(plot.axes) :]:
        axes.set_visible(False)
    return figure


def _lines(axes: Any, described: Axes) -> None:
    """Draw lines. The x-axis has the measured values, where they are few."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_title(described.title)
    axes.set_xlabel(described.x_label)
    axes.set_ylabel(described.y_label)
    for colour, line in zip(SERIES * 3, described.lines, strict=False):
        few = len(line.x) <= _FEW
        axes.plot(line.x, line.y, color=colour, marker="o" if few else None, markersize=4, label=line.label)
    measured = sorted({x for line in described.lines for x in line.x})
    heights = [y for line in described.lines for y in line.y]
    plain = FuncFormatter(lambda value, _: f"{value:,g}" if value < _LONG else f"{value:,.0f}")
    if described.logarithmic:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(plain)
    if len(measured) <= _FEW:
        axes.set_xticks(measured)
        axes.xaxis.set_major_formatter(plain)
        axes.xaxis.set_minor_formatter(NullFormatter())
    if described.logarithmic and max(heights) > _STEEP * min(heights):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(plain)
    else:
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(plain)
    axes.minorticks_off()
    if len(described.lines) > 1:
        axes.legend()


def _coloured(svg: str, plot: Plot, scheme: str) -> str:
    """Return a picture in the colours of a scheme, with the title and the digest of the figures."""
    for colour, choices in _COLOURS.items():
        svg = svg.replace(colour, choices[SCHEMES.index(scheme)])
    # Comments and the ids of groups name what nothing refers to. One style has the fonts.
    svg = re.sub(
        r"<!--.*?-->|(?<=<g) id=\"[^\"]*\"|font-family: [^;\"]*; |<metadata>.*?</metadata>", "", svg, flags=re.DOTALL
    )
    head, opening, rest = svg.partition("<svg ")
    attributes, close, body = rest.partition(">")
    title = f"<title>{_escaped(plot.title)}</title>"
    style = "<style>text { font-family: system-ui, sans-serif }</style>"
    text = f"{head}{opening}{attributes}{close}\n{digest_line(plot)}\n{title}\n{style}{body}"
    return "".join(f"{line.strip()}\n" for line in text.splitlines() if line.strip())


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

"""How cost grows: with the length of texts, the rows of a batch and the calls in flight."""

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from pages import serving
from pages.parts import MISSING, Content, Results, interval, measured, table
from pages.plot_data import Axes, Curves, Line

_PLAIN = "CPU in fp32 (plain)"


def build(results: Results) -> Content:
    """Return tables and curves."""
    content = Content()
    axes, told = [], []
    speed, peers = results.get("export_speed"), results.get("peers")
    if speed is None:
        content.blocks.update(length=MISSING, length_measured="")
    else:
        grid = milliseconds(speed["ms"][_PLAIN])
        content.blocks.update(length=_length_table(grid), length_measured=measured("export_speed", speed))
        axes.append(_length_axes(grid))
        told.append(_growth(grid))
    if peers is None:
        content.blocks.update(in_flight=MISSING, in_flight_measured="")
    else:
        content.blocks.update(in_flight=_in_flight_table(peers), in_flight_measured=measured("peers", peers))
        axes.append(_in_flight_axes(peers))
    if axes:
        content.plots["growth"] = Curves("cost_growth", "How cost grows", tuple(axes))
    content.headline = "; ".join(told) or content.headline
    return content


def milliseconds(row: Mapping[str, float]) -> dict[int, dict[int, float]]:
    """Return milliseconds per text, by rows of the batch and tokens of a text."""
    grid: dict[int, dict[int, float]] = {}
    for shape, value in row.items():
        rows, tokens = map(int, shape.split("x"))
        grid.setdefault(rows, {})[tokens] = value / rows
    return grid


def _length_table(grid: Mapping[int, Mapping[int, float]]) -> str:
    lengths = sorted(next(iter(grid.values())))
    rows = [("rows in the batch", *(f"{length} tokens" for length in lengths))]
    for count, row in grid.items():
        rows.append((str(count), *(f"{row[length]:.2f}" for length in lengths)))
    return f"Milliseconds per text:\n\n{table(rows)}"


def _length_axes(grid: Mapping[int, Mapping[int, float]]) -> Axes:
    lines = []
    for count, row in grid.items():
        lengths = sorted(row)
        label = "1 row" if count == 1 else f"{count} rows"
        lines.append(Line(label, tuple(map(float, lengths)), tuple(row[length] for length in lengths)))
    return Axes("engine call, plain graph", "tokens of a text", "ms per text", tuple(lines), logarithmic=True)


def _growth(grid: Mapping[int, Mapping[int, float]]) -> str:
    """Return how many times more a text of the greatest length costs, in the largest batch."""
    count = max(grid)
    short, long = min(grid[count]), max(grid[count])
    times = grid[count][long] / grid[count][short]
    return f"a text of {long} tokens costs {times:.1f} times one of {short}, in batches of {count}"


def _in_flight_table(peers: Mapping[str, Any]) -> str:
    rows = [("calls in flight", "calls/s", "p50, ms", "p99, ms", "server CPU per call, ms")]
    for count in _counts(peers):
        rate, p50, p99, cpu = (
            serving.points_of(peers, serving.PALM, count, key) for key in ("rate", "p50_ms", "p99_ms", "server_cpu_ms")
        )
        rows.append((str(count), interval(rate, 0), interval(p50, 0), interval(p99, 0), interval(cpu, 1)))
    return table(rows)


def _in_flight_axes(peers: Mapping[str, Any]) -> Axes:
    counts = _counts(peers)
    rates = [fmean(serving.points_of(peers, serving.PALM, count, "rate")) for count in counts]
    line = Line("PALM", tuple(map(float, counts)), tuple(rates))
    return Axes("server, all calls", "calls in flight", "calls/s", (line,))


def _counts(peers: Mapping[str, Any]) -> list[int]:
    """Return the numbers of calls in flight that were measured."""
    first_round = next(iter(peers["rounds"][serving.PALM].values()))
    return sorted(point["callers"] for point in first_round)

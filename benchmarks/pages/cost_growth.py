"""How cost grows: with texts, tasks, labels, models, callers and rows, with the rows of a batch and the calls in flight."""

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from pages import serving
from pages.parts import MISSING, Content, Goal, Results, at_most, goals_table, interval, measured, table
from pages.plot_data import Axes, Curves, Line

_PLAIN = "CPU in fp32 (plain)"


_COLUMNS = {
    "ms": "ms a call",
    "cpu_ms": "processor ms a call",
    "mib": "bundle, MiB",
    "memory_mib": "memory, MiB",
    "ready_s": "s until ready",
    "per_s": "calls/s",
    "p99_ms": "p99, ms",
    "seconds": "s to the end of the first step",
}
"""Keys of a part -> column of its table."""
_PARTS = {
    "length": ("words of a text", "ms"),
    "tasks": ("tasks of a model", "ms"),
    "labels": ("labels of a task", "ms"),
    "models": ("models in a server", "memory_mib"),
    "callers": ("callers", "per_s"),
    "rows": ("rows of training data", "memory_mib"),
}
"""Parts of cost_growth.py -> what grows, and what the picture shows."""
_MOST_ROWS = 1_000_000
_MEMORY_MIB, _FIRST_STEP_S = 2048.0, 60.0


def build(results: Results) -> Content:
    """Return tables and curves."""
    content = Content()
    _parts(content, (results.get("cost_growth") or {}).get("parts", {}))
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


def _parts(content: Content, parts: Mapping[str, Any]) -> None:
    """Tell what cost_growth.py measured, part by part."""
    axes = []
    for name, (axis, drawn) in _PARTS.items():
        if name not in parts:
            content.blocks[f"part_{name}"] = MISSING
            continue
        part = parts[name]
        keys = [key for key in _COLUMNS if key in part]
        rows = [(axis, *(_COLUMNS[key] for key in keys))]
        for position, x in enumerate(part["x"]):
            rows.append(
                (f"{x:,g}" if x < _MOST_ROWS else f"{x:,.0f}", *(f"{part[key][position]:,.2f}" for key in keys))
            )
        content.blocks[f"part_{name}"] = f"{table(rows)}\n\n{measured('cost_growth', part)}"
        line = Line(name, tuple(map(float, part["x"])), tuple(part[drawn]))
        axes.append(Axes(f"{_COLUMNS[drawn]} and {axis}", axis, _COLUMNS[drawn], (line,), logarithmic=True))
    if axes:
        content.plots["parts"] = Curves("cost_growth_parts", "How cost grows with what a model has to do", tuple(axes))
    content.goals += _row_goals(parts.get("rows"))
    content.blocks["goals"] = goals_table(content.goals)


def _row_goals(part: Mapping[str, Any] | None) -> list[Goal]:
    """Return the goals for a million rows of training data. The memory of the fewest rows stands for that of the model."""
    memory, first_step = (f"{_MOST_ROWS:,} rows: {what}" for what in ("memory beyond the model, MiB", "first step, s"))
    if part is None or part["x"][-1] < _MOST_ROWS:
        return [Goal(memory, f"at most {_MEMORY_MIB:g}"), Goal(first_step, f"at most {_FIRST_STEP_S:g}")]
    gained, seconds = part["memory_mib"][-1] - part["memory_mib"][0], part["seconds"][-1]
    return [
        at_most(memory, _MEMORY_MIB, gained, f"{gained:,.0f}"),
        at_most(first_step, _FIRST_STEP_S, seconds, f"{seconds:.1f}"),
    ]


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

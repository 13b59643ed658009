"""Overload, clients that flood, a million calls, hostile messages, and versions that change under load."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import fmean, median
from typing import Any

from pages.parts import MISSING, Content, Goal, Results, at_least, at_most, measured, rounds, table
from pages.plot_data import Axes, Curves, Line

_GOODPUT, _TO_ECHO, _RECOVERED_S = 0.95, 2.0, 1.0
_P99_RATIO, _MEMORY_RATIO = 1.2, 1.05
_MEMORY_MIB = 10.0
_NEIGHBOUR = 1.1
_NEIGHBOUR_OF_ATTACK = 1.5
_ANSWERED, _BATCHES = 99.0, 3.0
_TO_BEST, _REFUSED_MS = 0.95, 10.0
_HEAD = ("figure", "measured", "goal", "verdict")

Row = tuple[str, str, str, str]


def build(results: Results) -> Content:
    """Return tables, plots and goals of the page."""
    content = Content()
    for name, tell in _BLOCKS.items():
        found = results.get(name)
        if found is None:
            content.blocks[name] = MISSING
            continue
        rows = tell(content, found)
        content.blocks[name] = f"{table([_HEAD, *rows])}\n\n{measured(name, found)}"
    content.plots.update(_plots(results))
    return content


def _plain(what: str, shown: str) -> Row:
    return what, shown, "", ""


def _judged(content: Content, goal: Goal) -> Row:
    content.goals.append(goal)
    return goal.what, goal.reached or "", goal.wanted, goal.verdict


def _overload(content: Content, found: Mapping[str, Any]) -> list[Row]:
    figures = found["rounds"]

    def goal(compare: Any, what: str, key: str, wanted: float, digits: int = 2) -> Row:
        return _judged(content, compare(what, wanted, fmean(figures[key]), rounds(figures[key], digits)))

    content.headline = f"overload: {rounds(figures['goodput_to_peak'])} of the peak answered in time"
    rows = [
        _plain("peak, calls/s", rounds(figures["peak_per_s"], 0)),
        _plain("offered, calls/s", rounds(figures["offered_per_s"], 0)),
        _plain("answered in time, calls/s", rounds(figures["goodput_per_s"], 0)),
        goal(at_least, "overload: answered in time to the peak", "goodput_to_peak", _GOODPUT),
        _plain("refusals, median ms", rounds(figures["refused_p50_ms"], 1)),
        _plain("refusals, p99 ms", rounds(figures["refused_p99_ms"], 1)),
        _plain("empty echo at half its load, p99 ms", rounds(figures["echo_p99_ms"], 1)),
        goal(at_most, "overload: p99 of refusals to that of the echo", "refused_to_echo", _TO_ECHO, 1),
        goal(at_most, "overload: calm again after, s", "recovered_s", _RECOVERED_S, 1),
    ]
    codes = [name for name in figures if name.startswith("code_")]
    rows += [_plain(f"`{name.removeprefix('code_').upper()}`", rounds(figures[name], 0)) for name in sorted(codes)]
    return rows


def _fairness(content: Content, found: Mapping[str, Any]) -> list[Row]:
    figures = found["rounds"]
    rows = [
        _plain("capacity, calls/s", rounds(figures["capacity_per_s"], 0)),
        _plain("a full batch, ms", rounds(figures["batch_ms"], 0)),
        _plain("alone: answered, %", rounds(figures["alone_answered"], 1)),
        _plain("alone: p99, ms", rounds(figures["alone_p99_ms"], 0)),
    ]
    floods = [key.removesuffix(": answered") for key in figures if key.endswith(": answered")]
    for flood in floods:
        answered = figures[f"{flood}: answered"]
        what = f"beside {flood}: answered, %"
        rows.append(_judged(content, at_least(what, _ANSWERED, fmean(answered), rounds(answered, 1))))
        batches = []
        for p99_ms, batch_ms in zip(figures[f"{flood}: p99_ms"], figures["batch_ms"], strict=True):
            batches.append(p99_ms / batch_ms)
        what = f"beside {flood}: p99, full batches"
        rows.append(_judged(content, at_most(what, _BATCHES, fmean(batches), rounds(batches, 1))))
        rows.append(_plain(f"beside {flood}: p50, ms", rounds(figures[f"{flood}: p50_ms"], 0)))
        rows.append(_plain("texts/s of this flood", rounds(figures[f"{flood}: texts_per_s"], 0)))
    return rows


def _admission(content: Content, found: Mapping[str, Any]) -> list[Row]:
    rows = []
    for condition in found["rounds"][0]:
        measurements = [figures[condition] for figures in found["rounds"]]
        rows.append(
            _plain(f"{condition}: capacity, calls/s", rounds([each["capacity_per_s"] for each in measurements], 0))
        )
        for index, load in enumerate(measurements[0]["loads"]):
            loads = [each["loads"][index] for each in measurements]
            name = f"{condition}, {load['times']:g} times the capacity"
            ratios = [each["to_best"] for each in loads]
            what = f"admission: {name}, in time to the best fixed queue"
            rows.append(_judged(content, at_least(what, _TO_BEST, fmean(ratios), rounds(ratios))))
            rows.append(_plain(f"{name}: accepted calls in time", rounds([each["kept"] for each in loads])))
            refused_ms = [each["refused_ms"] for each in loads]
            if load["times"] > 1:
                what = f"admission: {name}, refusals, median ms"
                rows.append(_judged(content, at_most(what, _REFUSED_MS, fmean(refused_ms), rounds(refused_ms, 1))))
    for condition, reason in found["missing"].items():
        rows.append(_plain(f"{condition}: not measured, {reason}", ""))
    return rows


def _soak(content: Content, found: Mapping[str, Any]) -> list[Row]:
    growth, looks = found["growth"], found["looks"]
    rows = [_plain(f"calls: {name}", f"{count:,}") for name, count in found["codes"].items()]
    rows.append(_plain("memory at the first and at the last look, MiB", f"{looks[0][0]:.0f} and {looks[-1][0]:.0f}"))
    rows.append(_plain("memory at the end to that after a quarter of the calls", f"{growth['memory']:.3f}"))
    rows.append(_plain("memory for each further call, KiB", f"{growth['memory_kib_per_call']:.3f}"))
    if "bare" in found:
        gap = growth["memory_mib"] - found["bare"]["growth"]["memory_mib"]
        what = "soak: memory gained beyond that of a bare gRPC server, MiB"
        rows.append(_judged(content, at_most(what, _MEMORY_MIB, gap, f"{gap:.1f}")))
    for name in ("threads", "descriptors"):
        rows.append(_judged(content, at_most(f"soak: {name} gained", 0, growth[name], f"{growth[name]:g}")))
    return rows


def _swaps(content: Content, found: Mapping[str, Any]) -> list[Row]:
    figures, memory = found["rounds"], found["memory_mib"]
    after_two = memory[min(1, len(memory) - 1)]
    failed = sum(figures["failed_calls"])
    return [
        _plain("swaps", str(len(found["swap_s"]))),
        _plain("calls", f"{sum(figures['calls']):,}"),
        _judged(content, at_most("swaps: failed calls", 0, failed, f"{failed:,}")),
        _plain("refused calls", f"{sum(figures['refused_calls']):,}"),
        _plain("a swap, median s", f"{median(found['swap_s']):.2f} (at most {max(found['swap_s']):.2f})"),
        _plain("p99 without swaps, ms", rounds(figures["steady_p99_ms"], 0)),
        _plain("p99 with swaps, ms", rounds(figures["swapped_p99_ms"], 0)),
        _judged(
            content,
            at_most(
                "swaps: p99 to that without", _P99_RATIO, fmean(figures["p99_ratio"]), rounds(figures["p99_ratio"])
            ),
        ),
        _judged(
            content,
            at_most(
                "swaps: memory after all to that after two",
                _MEMORY_RATIO,
                memory[-1] / after_two,
                f"{memory[-1] / after_two:.2f}",
            ),
        ),
    ]


def _fuzz(content: Content, found: Mapping[str, Any]) -> list[Row]:
    codes: Mapping[str, int] = found["codes"]
    total = sum(codes.values())
    rows = [_plain("messages", f"{total:,}")]
    rows += [_plain(f"`{name}`", f"{100 * count / total:.1f} %") for name, count in codes.items()]
    rows.append(_judged(content, at_most("fuzz: faults", 0, found["faults"], f"{found['faults']:,}")))
    ratio = found["p99_ms"] / found["p99_steady_ms"]
    what = "fuzz: neighbour's p99 to that beside well-formed requests"
    rows.append(_judged(content, at_most(what, _NEIGHBOUR, ratio, f"{ratio:.2f}")))
    return rows


def _envoy(content: Content, found: Mapping[str, Any], what: str = "restarts") -> list[Row]:
    took, codes = found["restart_s"], found["codes"]
    undrained = sum(count for code, count in found["exits"].items() if code != "0")
    rows = [
        _plain("restarts", str(len(took))),
        _plain("a restart, median s", f"{median(took):.1f}"),
        _plain("calls", f"{sum(codes.values()):,}"),
        _judged(content, at_most(f"{what}: failed calls", 0, found["failed"], f"{found['failed']:,}")),
        _judged(content, at_most(f"{what}: servers that did not drain", 0, undrained, str(undrained))),
    ]
    if "steady" in found:
        rows.append(_plain("p99 without restarts, ms", f"{found['steady']['answered_ms']['p99']:.0f}"))
        rows.append(_plain("p99 with restarts, ms", rounds(found["rounds"]["p99_ms"], 0)))
    return rows


def _http_neighbours(content: Content, found: Mapping[str, Any]) -> list[Row]:
    rows = []
    for name, (quiet_ms, beside_ms) in found["p99_ms"].items():
        rows.append(_plain(f"{name}: p99 before and beside, ms", f"{quiet_ms:.1f} and {beside_ms:.1f}"))
        ratio = beside_ms / quiet_ms
        what = f"HTTP attack, {name}: neighbour's p99 to that before"
        rows.append(_judged(content, at_most(what, _NEIGHBOUR_OF_ATTACK, ratio, f"{ratio:.2f}")))
    rows.append(_plain("memory after all, MiB", f"{found['memory_mib']:.0f}"))
    return rows


_BLOCKS: Mapping[str, Callable[[Content, Mapping[str, Any]], list[Row]]] = {
    "overload": _overload,
    "admission": _admission,
    "fairness": _fairness,
    "soak": _soak,
    "swaps": _swaps,
    "fuzz": _fuzz,
    "envoy": _envoy,
    "envoy_http": partial(_envoy, what="restarts over HTTP"),
    "http_neighbours": _http_neighbours,
}


def _plots(results: Results) -> dict[str, Curves]:
    """Return the memory of the server over the soak and over the swaps."""
    axes = []
    soak, swaps = results.get("soak"), results.get("swaps")
    if soak is not None:
        share = [100 * (number + 1) / len(soak["looks"]) for number in range(len(soak["looks"]))]
        lines = [_line("server", share, [look[0] for look in soak["looks"]])]
        if "bare" in soak:
            lines.append(_line("bare gRPC server", share, [look[0] for look in soak["bare"]["looks"]]))
        axes.append(Axes("memory over the soak", "calls made, %", "MiB", tuple(lines)))
    if swaps is not None:
        memory = swaps["memory_mib"]
        line = _line("server", [float(number + 1) for number in range(len(memory))], memory)
        axes.append(Axes("memory after each swap", "swaps", "MiB", (line,)))
    return {"memory": Curves("memory", "Memory of the server", tuple(axes))} if axes else {}


def _line(label: str, x: Sequence[float], y: Sequence[float]) -> Line:
    return Line(label, tuple(x), tuple(y))

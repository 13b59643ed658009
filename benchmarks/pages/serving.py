"""Serving beside other servers, and what a call and a batch of rows cost beside the work alone."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from pages.parts import (
    MISSING,
    Content,
    Goal,
    Results,
    at_least,
    at_most,
    goals_table,
    interval,
    measured,
    rounds,
    table,
)
from pages.plot_data import Dots, Panel
from pages.quality import point_of

PALM, CONTROL, RAY, MOSEC = "PALM", "control (PALM)", "Ray Serve", "mosec"
IN_FLIGHT = (64, 256)
_TO_BEST, _TO_RAY = 1.4, 3.0
_TITLES = {"PyTriton": "Triton (PyTriton)", CONTROL: "PALM again (control)"}
_ORACLE = (
    ("oracle, CPU ms per text", "oracle_cpu_ms", None),
    ("empty echo, CPU ms per call", "echo_cpu_ms", None),
    ("`Parse`, CPU ms per call", "unary_cpu_ms", None),
    ("`Parse` to oracle and echo, CPU", "unary_ratio", 1.10),
    ("`ParseBatch` of 32, CPU ms per text", "batch_cpu_ms", None),
    ("`ParseBatch` of 32 to oracle, CPU", "batch_ratio", 1.05),
    ("bare engine call, median ms", "engine_alone_ms", None),
    ("empty echo alone, median ms", "echo_alone_ms", None),
    ("`Parse` alone, median ms", "parse_alone_ms", None),
    ("added by the server, median ms", "added_ms", 0.5),
)
"""Title, key, and the goal, at most."""
_ONE_CALL = (
    ("event loop, CPU ms", "loop_cpu_ms", None),
    ("event loop of an empty echo, CPU ms", "echo_loop_cpu_ms", None),
    ("engine thread, CPU ms", "engine_thread_cpu_ms", None),
    ("client, CPU ms", "client_cpu_ms", None),
    ("client of an empty echo, CPU ms", "echo_client_cpu_ms", None),
    ("tokenizing, median ms", "tokenize_ms", None),
    ("queue, median ms", "queue_ms", None),
    ("inference, median ms", "inference_ms", None),
    ("decoding, median ms", "decode_ms", 0.3),
    ("a call, median ms", "call_ms", None),
    ("a call to an empty echo, median ms", "echo_call_ms", None),
    ("added to inference and echo, ms", "added_ms", 1.0),
)
_HTTP = (
    ("`Parse` over gRPC, CPU ms per call", "grpc_cpu_ms", None),
    ("`Parse` over gRPC to that of a server without HTTP", "idle_door_ratio", 1.03),
    ("Connect, bytes, to gRPC", "proto_ratio", 1.3),
    ("Connect, JSON, to gRPC", "json_ratio", 1.3),
    ("Rasa's HTTP, to gRPC", "rasa_ratio", 1.3),
    ("Open Inference Protocol, JSON, to gRPC", "oip_ratio", 1.3),
)
_BATCH_GOAL = 0.95
_RAY_GOAL = 1.25


def build(results: Results) -> Content:
    """Return the tables, the plot and the goals of the page."""
    content = Content()
    found = results.get("peers")
    if found is None:
        content.blocks.update(peers=MISSING, goals="", equal_p99="", control="", measured="")
    else:
        _peers(content, found)
    _stages(content, "oracle", results.get("oracle"), _ORACLE)
    _stages(content, "one_call", results.get("one_call"), _ONE_CALL)
    _stages(content, "http_cost", results.get("http_cost"), _HTTP)
    _batch(content, results.get("batch"))
    _ray_serve(content, results.get("ray_serve"))
    return content


def points_of(found: Mapping[str, Any], server: str, in_flight: int, key: str) -> list[float]:
    """Return a figure of a server in each round."""
    values = []
    for points in found["rounds"][server].values():
        values += [point[key] for point in points if point["callers"] == in_flight]
    return values


def ratios_of(found: Mapping[str, Any], server: str, in_flight: int, how: str = "{} in flight") -> list[float]:
    """Return PALM's calls/s to those of a server in each round.

    Args:
        found: the results.
        server: the other server.
        in_flight: calls in flight.
        how: what is compared. `within its p99 at {}` takes PALM's best loop whose p99 is no more than the server's.
    """
    values: list[float] = found["ratios"][server][how.format(in_flight)]["rounds"]
    return values


def peers_of(found: Mapping[str, Any]) -> list[str]:
    """Return the other servers, the fastest first."""
    names = [name for name in found["ratios"] if name != CONTROL]
    return sorted(names, key=lambda name: fmean(ratios_of(found, name, IN_FLIGHT[1])))


def _peers(content: Content, found: Mapping[str, Any]) -> None:
    order = [name for name in (PALM, CONTROL, *peers_of(found)) if name in found["rounds"]]
    tables = []
    for count in IN_FLIGHT:
        rows = [(f"{count} calls in flight", "calls/s", "p99, ms", "server CPU per call, ms", "PALM to it")]
        for name in order:
            rate, p99, cpu = (points_of(found, name, count, key) for key in ("rate", "p99_ms", "server_cpu_ms"))
            gain = "" if name == PALM else interval(ratios_of(found, name, count))
            rows.append((_TITLES.get(name, name), interval(rate, 0), f"{fmean(p99):.0f}", f"{fmean(cpu):.1f}", gain))
        tables.append(table(rows))
    count = len(found["rounds"][PALM])
    told = f"Means of {count} rounds with their 95 % interval; loops of {found['seconds']:g} s over {found['texts']} texts."
    joined = "\n\n".join(tables)
    content.blocks["peers"] = f"{joined}\n\n{told} Engine: {found['engine']}."
    rows = [("PALM to it within its p99", *(f"its p99 with {count} in flight" for count in IN_FLIGHT))]
    for name in order[1:]:
        told = (interval(ratios_of(found, name, count, "within its p99 at {}")) for count in IN_FLIGHT)
        rows.append((_TITLES.get(name, name), *told))
    content.blocks["equal_p99"] = table(rows)
    content.goals += peer_goals(found)
    content.blocks["goals"] = goals_table(content.goals)
    content.blocks["measured"] = measured("peers", found)
    content.blocks["control"] = " and ".join(interval(ratios_of(found, CONTROL, count)) for count in IN_FLIGHT)
    panels = []
    for count in IN_FLIGHT:
        points = tuple(point_of(points_of(found, name, count, "rate")) for name in order)
        panels.append(Panel(f"calls/s, {count} in flight", points))
    labels = tuple(_TITLES.get(name, name) for name in order)
    what = "Answered calls per second with the same engine call behind each server"
    content.plots["peers"] = Dots("peers", what, labels, tuple(panels), "95 % interval over rounds")
    best = peers_of(found)[0]
    content.headline = (
        f"{interval(ratios_of(found, best, IN_FLIGHT[1]))} times {best}'s calls/s, {IN_FLIGHT[1]} in flight"
    )


def peer_goals(found: Mapping[str, Any]) -> list[Goal]:
    """Return the goals beside the fastest of the other servers and beside Ray Serve."""
    goals = []
    peers = peers_of(found)
    for count in IN_FLIGHT:
        best = min(peers, key=lambda name, count=count: fmean(ratios_of(found, name, count)))
        for name, wanted in ((best, _TO_BEST), (RAY, _TO_RAY)):
            if name in peers:
                values = ratios_of(found, name, count)
                what = f"times the calls/s of {name}{', the best of the others' if name == best else ''}, {count} in flight"
                goals.append(at_least(what, wanted, fmean(values), interval(values)))
    return goals


def _stages(content: Content, name: str, found: Any, stages: Sequence[tuple[str, str, float | None]]) -> None:
    """Tell medians over rounds beside their goals."""
    if found is None:
        content.blocks[name] = MISSING
        return
    rows = [("figure", "mean and range of the rounds", "goal", "verdict")]
    for title, key, wanted in stages:
        if key not in found["rounds"]:
            continue
        values = found["rounds"][key]
        goal = None if wanted is None else at_most(title, wanted, fmean(values), rounds(values))
        rows.append((title, rounds(values), goal.wanted if goal else "", goal.verdict if goal else ""))
        content.goals += [goal] if goal else []
    count = len(found["rounds"][stages[0][1]])
    engine = f" Engine: {found['engine']}." if "engine" in found else ""
    content.blocks[name] = f"{table(rows)}\n\n{count} rounds.{engine} {measured(name, found)}"


def _batch(content: Content, found: Any) -> None:
    if found is None:
        content.blocks["batch"] = MISSING
        return
    figures = found["rounds"]
    rows = [("figure", "mean and range of the rounds", "goal", "verdict")]
    goal = at_least(
        "`palm-serve batch` to a bare loop, of the clock",
        _BATCH_GOAL,
        fmean(figures["clock_ratio"]),
        rounds(figures["clock_ratio"]),
    )
    content.goals.append(goal)
    rows.append(("bare loop, texts/s", rounds(figures["loop_per_s"], 0), "", ""))
    rows.append(("`palm-serve batch`, rows/s", rounds(figures["batch_per_s"], 0), "", ""))
    rows.append(("batch to loop, of the clock", rounds(figures["clock_ratio"]), goal.wanted, goal.verdict))
    rows.append(("batch to loop, of the processor", rounds(figures["cpu_ratio"]), "", ""))
    engine = found["engine"]
    told = f"{len(figures['clock_ratio'])} rounds over {found['rows']:,} rows. Engine: {engine['provider']} {engine['precision']}."
    content.blocks["batch"] = f"{table(rows)}\n\n{told} {measured('batch', found)}"


def _ray_serve(content: Content, found: Any) -> None:
    if found is None:
        content.blocks["ray_serve"] = MISSING
        return
    what = "a call through Ray Serve and HAProxy to one of `palm-serve run`, CPU"
    goal = at_most(what, _RAY_GOAL, fmean(found["ratios"]), rounds(found["ratios"]))
    content.goals.append(goal)
    rows = [("figure", "mean and range of the rounds", "goal", "verdict")]
    rows.append(("`palm-serve run`, CPU ms per call", rounds(found["milliseconds"]["palm-serve"]), "", ""))
    rows.append(("replica and HAProxy, CPU ms per call", rounds(found["milliseconds"]["Ray"]), "", ""))
    rows.append(("Ray Serve to `palm-serve run`", rounds(found["ratios"]), goal.wanted, goal.verdict))
    told = f"{len(found['ratios'])} rounds, {found['concurrency']} callers."
    content.blocks["ray_serve"] = f"{table(rows)}\n\n{told} {measured('ray_serve', found)}"

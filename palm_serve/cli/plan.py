"""`palm-serve plan`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from palm_serve.cli.json_file import write_json_file
from palm_serve.cli.shared import report_errors, write_line

if TYPE_CHECKING:
    from palm_serve.capacity.fleet import FleetPlan


def plan(
    rate: Annotated[float, typer.Option(min=0.001, max=1e9, help="Calls per second at the peak.")],
    p99: Annotated[
        float, typer.Option(min=0.0001, max=3600, help="Seconds within which 99 of 100 calls are answered.")
    ],
    figures: Annotated[
        Path, typer.Option("--from", metavar="FILE", help="JSON of `palm-serve bench --sweep` with one replica.")
    ],
    utilization: Annotated[
        float, typer.Option(min=0.01, max=0.99, help="Largest share of a replica's capacity that is used.")
    ] = 0.6,
    clients: Annotated[
        int, typer.Option(min=1, max=10**9, help="Client processes. Each connects to every replica.")
    ] = 1,
    price: Annotated[
        float | None, typer.Option(min=0, max=1e6, help="Price of a core for an hour. Default: no cost is printed.")
    ] = None,
    cores: Annotated[
        float | None,
        typer.Option(min=0.01, max=1024, help="Cores of a replica. Default: what it used, from bench's --metrics."),
    ] = None,
    memory: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            max=1e6,
            help="GiB of a replica. Default: one and a half times what it used, from bench's --metrics.",
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the plan to this file as JSON.")
    ] = None,
) -> None:
    """Compute the replicas for a rate of calls.

    Prints how many replicas, cores, memory and connections it takes, what they cost, and which limit shows first.

    The figures of one replica are those of a sweep of `palm-serve bench`, on the machine type that will serve. The rest is
    computed: a replica is a queue whose speed depends on the calls in it, and calls arrive at random. Nothing is connected to.
    """
    with report_errors():
        from palm_serve.capacity.bench_figures import read_figures
        from palm_serve.capacity.fleet import Demand, plan_fleet

        content = read_figures(figures)
        demand = Demand(rate, p99, utilization, clients, price, cores, memory)
        result = plan_fleet(content, demand)
        if json_file is not None:
            write_json_file(json_file, result.as_dict())
    _show(result)
    for level in content.levels:
        for doubt in level.doubts:
            write_line(f"unreliable figures of {level.callers} callers: {doubt}")


def _show(result: "FleetPlan") -> None:
    demand = result.demand
    held_by = "--p99" if result.held_by == "p99" else f"--utilization {demand.utilization:g}"
    rows = [
        ("demand", f"{demand.rate:,.12g} calls/s, 99 % within {demand.p99_s:g} s"),
        ("a replica", f"{result.capacity:,.1f} calls/s at most, planned {result.planned:,.1f} (held by {held_by})"),
        ("times", f"mean {1000 * result.mean_s:,.1f} ms, p99 {1000 * result.p99_s:,.1f} ms, computed"),
        ("wait", f"{1000 * result.wait_s:,.1f} ms at the planned calls/s, computed: the target of an autoscaler"),
        ("replicas", f"{result.replicas:,}, one of them to spare"),
        ("cores", f"{result.cores:,.0f}, {result.cores_per_replica:g} a replica"),
        ("memory", f"{result.memory_gib:,.1f} GiB, {result.memory_gib_per_replica:g} a replica"),
        ("connections", f"{result.connections:,}, {demand.clients:,} a replica"),
    ]
    if result.monthly_cost is not None and result.cost_per_million is not None:
        cost = f"{result.monthly_cost:,.0f} a month of 730 hours, {result.cost_per_million:,.3g} a million calls"
        rows.append(("cost", f"{cost}, at {demand.price:g} a core and hour"))
    for name, text in rows:
        write_line(f"{name:<12}{text}")
    write_line("limits, in the order in which they show:")
    for limit in result.limits:
        reached = "reached" if demand.rate > limit.from_rate else "not yet"
        start = f"from {limit.from_rate:,.0f} calls/s" if limit.from_rate else "at any rate"
        write_line(f"  {limit.name}, {start} ({reached}): {limit.advice}.")

"""What `palm-serve plan` says of three servers, and what they do behind Envoy.

    python benchmarks/serving/capacity.py BUNDLE [--servers 3] [--seconds 10] [--threads 1] [--loads 0.3,0.5,0.6] [--json FILE]

One server is measured alone (a sweep, as `palm-serve bench --sweep`). The model predicts the p99 of `--servers` of them at shares of
their capacity. Then they run behind Envoy with LEAST_REQUEST, as docs/how-to/serve/envoy.md has it, and calls arrive at these rates. Each server
has cores of its own (`--threads` of them); Envoy and the generator have the rest. With too few cores they share, and the figures mean little.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from envoy import GRACE_S, Servers, envoy, free_ports, install
from processes import PATIENT_S, ROOT, chosen_texts, finish, options

from palm_serve.bench.load import Load
from palm_serve.bench.run import run_load
from palm_serve.bench.sweep import run_sweep
from palm_serve.capacity.bench_figures import BenchFigures
from palm_serve.capacity.fleet import response_times

_GOAL = (0.67, 1.5)
"""Measured to predicted p99: the model may be a half too careful, and a half too bold."""


@contextmanager
def pinned(cores: set[int]) -> Iterator[None]:
    """Start processes on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class PinnedServers(Servers):
    """Servers, each on cores of its own."""

    def __init__(self, bundle: Path, cores: dict[int, set[int]], *arguments: str) -> None:
        super().__init__(bundle, list(cores), *arguments)
        self._cores = cores

    def _start(self, port: int) -> None:
        with pinned(self._cores[port]):
            super()._start(port)


def divided_cores(servers: int, threads: int) -> tuple[list[set[int]], set[int]]:
    """Return the cores of each server, and those of everything else. They are shared where there are too few."""
    every = sorted(os.sched_getaffinity(0))
    if len(every) <= servers * threads:
        return [set(every)] * servers, set(every)
    own = [set(every[number * threads : (number + 1) * threads]) for number in range(servers)]
    return own, set(every[servers * threads :])


def main() -> None:
    """Prints the table; `--json` also writes it."""
    parser = options(__doc__, servers=3, seconds=10.0, threads=1, callers=64, loads="0.3,0.5,0.6")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "serving", help="directory for Envoy and its log")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    command, texts = install(arguments.work), chosen_texts(arguments)
    own, others = divided_cores(arguments.servers, arguments.threads)
    ports = free_ports(arguments.servers)
    cores = dict(zip(ports, own, strict=True))
    limits = ("--drain-grace", str(GRACE_S), "--max-calls-per-client", "100000", "--max-connections-per-address", "0")
    server = ("--provider", arguments.provider, "--threads", str(arguments.threads), *limits)
    common = {
        "texts": texts,
        "duration_s": arguments.seconds,
        "deadline_s": PATIENT_S,
        "processes": arguments.processes,
    }

    first = {ports[0]: cores[ports[0]]}
    with PinnedServers(arguments.bundle, first, *server), pinned(others):
        levels = list(run_sweep(Load(f"127.0.0.1:{ports[0]}", concurrency=arguments.callers, **common)))
    sweep = {"levels": [level.as_dict() for level in levels]}
    times = response_times(BenchFigures.model_validate(sweep))

    rows: list[tuple[str, str, str]] = [("capacity of one server, calls/s", f"{times.capacity:,.0f}", "")]
    rounds: list[dict[str, Any]] = []
    doubts = [doubt for level in levels for doubt in level.report.doubts]
    if others == own[0]:
        doubts.append("servers, Envoy and generator share their cores")
    with (
        PinnedServers(arguments.bundle, cores, *server),
        pinned(others),
        envoy(command, arguments.work, ports) as front,
    ):
        front.wait_for(set(ports))
        for load in map(float, arguments.loads.split(",")):
            each = load * times.capacity
            report = run_load(Load(front.target, rate=arguments.servers * each, **common))
            predicted_ms = 1000 * times.quantile(each, 0.99)
            measured_ms = report.answered_ms.get("p99", float("inf"))
            doubts += report.doubts
            rounds.append({"load": load, "predicted_p99_ms": predicted_ms, "report": report.as_dict()})
            shown = f"predicted {predicted_ms:,.1f}, measured {measured_ms:,.1f} ms: {measured_ms / predicted_ms:.2f}"
            rows.append((f"p99 at {load:g} of the capacity", shown, f"{_GOAL[0]} to {_GOAL[1]}"))
    finish(arguments, rows, {"sweep": sweep, "rounds": rounds, "servers": arguments.servers, "doubts": doubts})


if __name__ == "__main__":
    main()

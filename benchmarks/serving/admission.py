"""Admission by predictions beside the best limit of the queue, on a machine that the server shares.

    python benchmarks/serving/admission.py BUNDLE [--seconds 10] [--deadline 1] [--queues 8,16,32,64] [--busy 0,1,2] [--quota 1.5]
        [--rounds 1] [--json FILE]

Conditions: `--busy` other processes that compute without end, and a control group with a quota of `--quota` cores (0: none; it takes root).
In each, the capacity is what a closed loop gets. Then calls arrive at 0.5, 1 and 3 times the capacity, open loop. One server learns the deadline
of each call, and has no other limit that matters. The static servers learn none, and hold `--queues` requests (`--max-queue`): each answers
whatever has a place, in time or not. Printed: answers within the deadline to those of the best static server, the accepted calls that were
answered in time, and the median time of a refusal.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from processes import PATIENT_S, Process, chosen_texts, finish, middle, options, palm

from palm_serve.bench.load import Load
from palm_serve.bench.report import LoadReport
from palm_serve.bench.run import run_load

LOADS = (0.5, 1.0, 3.0)
OWN = "own"
"""Name of the server that learns the deadlines."""
_GROUPS = Path("/sys/fs/cgroup")
_PERIOD_US = 100_000
_GOAL, _REFUSED_MS = 0.95, 10.0


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Compute in other processes."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


@contextmanager
def quota(pids: Sequence[int], cores: float) -> Iterator[None]:
    """Put each process into a control group of its own, which may use so many cores. Raises OSError where it is not allowed."""
    with ExitStack() as groups:
        for pid in pids:
            groups.enter_context(_group(pid, cores))
        yield


@contextmanager
def _group(pid: int, cores: float) -> Iterator[None]:
    version_2 = (_GROUPS / "cgroup.controllers").exists()
    top = _GROUPS if version_2 else _GROUPS / "cpu"
    group = top / f"palm-admission-{pid}"
    group.mkdir()
    try:
        quota_us = str(round(cores * _PERIOD_US))
        if version_2:
            (group / "cpu.max").write_text(f"{quota_us} {_PERIOD_US}")
        else:
            (group / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(quota_us)
        (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        if Path(f"/proc/{pid}").exists():
            (top / "cgroup.procs").write_text(str(pid))
        group.rmdir()


def kept(report: LoadReport) -> float:
    """Share of the calls that were not refused which were answered in time."""
    accepted = report.calls - report.codes.get("RESOURCE_EXHAUSTED", 0)
    return min(1.0, report.goodput * report.calls / max(report.offered, 1e-9) / max(1, accepted))


def measure(servers: dict[str, Process], arguments: argparse.Namespace, texts: tuple[str, ...]) -> dict[str, Any]:
    """One condition: the capacity, and all servers under each load."""
    common = {"texts": texts, "duration_s": arguments.seconds, "processes": arguments.processes}
    own = servers[OWN].target
    capacity = run_load(Load(own, concurrency=arguments.callers, deadline_s=PATIENT_S, **common)).answered
    figures: dict[str, Any] = {"capacity_per_s": capacity, "loads": [], "doubtful_loads": 0}
    for times in LOADS:
        goodput = {}
        for name, server in servers.items():
            load = Load(
                server.target,
                rate=times * capacity,
                deadline_s=arguments.deadline,
                told_deadline_s=None if name == OWN else PATIENT_S,
                **common,
            )
            report = run_load(load)
            goodput[name] = report.goodput
            if name == OWN:
                found = {"kept": kept(report), "refused_ms": report.refused_ms.get("p50", 0.0), "codes": report.codes}
            figures["doubtful_loads"] += bool(report.doubts)
        static = {name: answered for name, answered in goodput.items() if name != OWN}
        best = max(static, key=lambda name: static[name])
        figures["loads"].append(
            {
                "times": times,
                "goodput_per_s": goodput,
                "best_queue": int(best),
                "to_best": goodput[OWN] / max(static[best], 1e-9),
                **found,
            }
        )
    return figures


def conditions(arguments: argparse.Namespace, servers: dict[str, Process]) -> dict[str, Any]:
    """Return the conditions by name: what to enter before calls arrive."""
    found: dict[str, Any] = {}
    for count in map(int, arguments.busy.split(",")):
        found[f"{count} busy processes" if count != 1 else "1 busy process"] = busy_processes(count)
    if arguments.quota:
        pids = [server.pid for server in servers.values()]
        found[f"{arguments.quota:g} cores"] = quota(pids, arguments.quota)
    return found


def table(rounds: Sequence[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """Return the rows to print."""
    rows = []
    for name in rounds[0]:
        rows.append((f"{name}: capacity, calls/s", middle([found[name]["capacity_per_s"] for found in rounds], 0), ""))
        for index, times in enumerate(LOADS):
            loads = [found[name]["loads"][index] for found in rounds]
            rows.append(
                (f"  x {times:g}, to the best queue", middle([load["to_best"] for load in loads]), f">= {_GOAL}")
            )
            rows.append(("    accepted and in time", middle([load["kept"] for load in loads]), ""))
            refused = [load["refused_ms"] for load in loads]
            rows.append(("    refusals, median ms", middle(refused, 1), f"<= {_REFUSED_MS:g}"))
    return rows


def main() -> None:
    """Prints the table; `--json` also writes it."""
    parser = options(
        __doc__, seconds=10.0, deadline=1.0, rounds=1, callers=64, queues="8,16,32,64", busy="0,1,2", quota=1.5
    )
    arguments = parser.parse_args()
    texts = chosen_texts(arguments)
    rounds: list[dict[str, Any]] = []
    missing: dict[str, str] = {}
    with ExitStack() as stack:
        command = (arguments.bundle, "--provider", arguments.provider)
        servers = {OWN: stack.enter_context(palm(*command))}
        for queue in arguments.queues.split(","):
            servers[queue] = stack.enter_context(palm(*command, "--max-queue", queue))
        for _ in range(arguments.rounds):
            found = {}
            for name, condition in conditions(arguments, servers).items():
                try:
                    condition.__enter__()
                except OSError as error:
                    missing[name] = str(error)
                    continue
                try:
                    found[name] = measure(servers, arguments, texts)
                finally:
                    condition.__exit__(None, None, None)
            rounds.append(found)
    doubts = [f"{name}: not measured, {reason}" for name, reason in missing.items()]
    for found in rounds:
        for name, figures in found.items():
            count = figures["doubtful_loads"]
            if count:
                doubts.append(f"{name}: the generator was late in {count} of {len(LOADS) * len(servers)} loads")
    deadline = {"deadline_s": arguments.deadline, "seconds": arguments.seconds}
    finish(arguments, table(rounds), {"rounds": rounds, **deadline, "missing": missing, "doubts": doubts})


if __name__ == "__main__":
    main()

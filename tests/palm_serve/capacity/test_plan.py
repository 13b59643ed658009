"""`palm-serve plan`: figures of a file in, replicas and limits out."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from palm_serve.cli import app

Figures = dict[str, Any]
SERVER = {"cpu_ms_per_call": 8.0, "memory_mib": 256.0}


def level(callers: int, answered: float, p50_ms: float, **codes: int) -> Figures:
    """A level as `palm-serve bench --sweep` writes it."""
    times = {"p50": p50_ms, "p90": p50_ms * 1.2, "p99": p50_ms * 1.5, "p99.9": p50_ms * 2, "max": p50_ms * 3}
    return {
        "callers": callers,
        "answered": answered,
        "codes": codes or {"OK": 1000},
        "answered_ms": times,
        "doubts": [],
    }


def sweep(**fields: Any) -> Figures:
    """A replica of 500 calls/s at most, which takes 10 ms for one."""
    levels = [level(1, 100, 10), level(4, 300, 13), level(16, 450, 36), level(64, 500, 128)]
    return {"offered": 500.0, "levels": levels, "server": SERVER} | fields


def plan(folder: Path, figures: object, *arguments: object) -> tuple[int, str]:
    """Run the command and return its exit code and output."""
    file = folder / "bench.json"
    file.write_text(figures if isinstance(figures, str) else json.dumps(figures))
    result = CliRunner().invoke(app, ["plan", "--from", str(file), *map(str, arguments)])
    return result.exit_code, result.output


def planned(folder: Path, figures: object, *arguments: object) -> Figures:
    """Run the command and return its JSON."""
    code, output = plan(folder, figures, *arguments, "--json", folder / "plan.json")
    assert code == 0, output
    content: Figures = json.loads((folder / "plan.json").read_text())
    return content


def test_plan_prints_replicas_cores_memory_connections_and_cost(tmp_path: Path) -> None:
    arguments = ("--rate", 100_000, "--p99", 0.2, "--price", 0.05, "--clients", 20)
    code, output = plan(tmp_path, sweep(), *arguments)
    assert code == 0, output
    # 60 % of 500 calls/s: 334 replicas, and one to spare; 500 calls/s use 4 cores.
    for line in (
        "demand      100,000 calls/s, 99 % within 0.2 s",
        "a replica   500.0 calls/s at most, planned 300.0 (held by --utilization 0.6)",
        "replicas    335, one of them to spare",
        "cores       1,340, 4 a replica",
        "memory      167.5 GiB, 0.5 a replica",
        "connections 6,700, 20 a replica",
        "cost        48,910 a month of 730 hours, 0.186 a million calls, at 0.05 a core and hour",
    ):
        assert line in output.splitlines()
    assert re.search(r"^wait        [\d.]+ ms at the planned calls/s", output, re.MULTILINE)
    assert output.index("balancing, from 300") < output.index("addresses of a name, from 21,600")
    assert "addresses of a name, from 21,600 calls/s (reached)" in output
    assert "connections of a client, from 306,900 calls/s (not yet)" in output


def test_plan_of_few_calls_is_one_replica_and_a_spare(tmp_path: Path) -> None:
    content = planned(tmp_path, sweep(), "--rate", 10, "--p99", 0.2)
    assert (content["replicas"], content["monthly_cost"]) == (2, None)
    assert "cost" not in plan(tmp_path, sweep(), "--rate", 10, "--p99", 0.2)[1]
    assert content["p99_s"] == pytest.approx(0.015, rel=0.15)


def test_plan_for_a_short_time_needs_more_replicas(tmp_path: Path) -> None:
    patient = planned(tmp_path, sweep(), "--rate", 10_000, "--p99", 0.2)
    hurried = planned(tmp_path, sweep(), "--rate", 10_000, "--p99", 0.03)
    assert (patient["held_by"], hurried["held_by"]) == ("utilization", "p99")
    assert hurried["replicas"] > 1.2 * patient["replicas"]
    assert hurried["p99_s"] <= 0.03
    assert 0 < hurried["wait_s"] < patient["wait_s"] < patient["mean_s"]
    full = planned(tmp_path, sweep(), "--rate", 10_000, "--p99", 0.2, "--utilization", 0.8)
    assert full["replicas"] < patient["replicas"]


def test_plan_takes_cores_and_memory_of_the_command_line(tmp_path: Path) -> None:
    figures = sweep(server=None)
    content = planned(tmp_path, figures, "--rate", 1000, "--p99", 0.2, "--cores", 8, "--memory", 2)
    assert (content["cores_per_replica"], content["memory_gib_per_replica"]) == (8, 2)
    assert content["limits"][0]["name"] == "one Python thread a process"
    code, output = plan(tmp_path, figures, "--rate", 1000, "--p99", 0.2, "--memory", 2)
    assert code == 2
    assert "--cores must be given where the bench does not know it, got none." in " ".join(output.split())


def test_plan_tells_of_clients_that_are_too_many(tmp_path: Path) -> None:
    content = planned(tmp_path, sweep(), "--rate", 1000, "--p99", 0.2, "--clients", 20_000)
    assert "connections of a replica" in [limit["name"] for limit in content["limits"]]
    assert content["connections"] == content["replicas"] * 20_000


def test_plan_repeats_doubts_of_the_bench(tmp_path: Path) -> None:
    figures = sweep()
    figures["levels"][1]["doubts"] = ["3 % of the calls started more than 10 ms late"]
    assert "unreliable figures of 4 callers: 3 % of the calls" in plan(tmp_path, figures, "--rate", 10, "--p99", 1)[1]


def without(key: str) -> Figures:
    """A sweep whose second level lacks a key."""
    figures = sweep()
    del figures["levels"][1][key]
    return figures


@pytest.mark.parametrize(
    ("figures", "told"),
    [
        ("{", "must be JSON of palm-serve bench, got a fault"),
        ("[1]", "must hold a sweep, got one load. Run: palm-serve bench HOST:PORT --sweep"),
        ({"answered": 3.0}, "must hold a sweep, got one load"),
        (sweep(levels=[]), "levels must be figures of palm-serve bench, got: Tuple should have at least 2 items"),
        (sweep(levels=[level(1, 100, 10)]), "levels must be figures of palm-serve bench"),
        (sweep(levels=[level(2, 100, 10), level(4, 100, 10)]), "callers of levels must rise from 1, got [2, 4]"),
        (sweep(levels=[level(1, 100, 10), level(1, 100, 10)]), "callers of levels must rise from 1, got [1, 1]"),
        (without("answered"), "levels.1.answered must be figures of palm-serve bench, got: Field required"),
        (sweep(levels=[level(1, 0, 10), level(2, 1, 10)]), "levels.0.answered must be figures of palm-serve bench"),
        (sweep(levels=[level(1, 1, 10), level(2, 1, float("inf"))]), "levels.1.answered_ms.p50 must be figures"),
        (
            sweep(levels=[level(1, 100, 10), level(2, 100, 10, OK=90, RESOURCE_EXHAUSTED=10)]),
            "2 callers must be answered at least 99 % of their calls, got 90.0 %. Give --deadline a longer time",
        ),
    ],
)
def test_plan_refuses_figures_that_are_no_sweep(tmp_path: Path, figures: object, told: str) -> None:
    code, output = plan(tmp_path, figures, "--rate", 10, "--p99", 0.2)
    assert code == 2
    assert told in " ".join(output.split())


def test_plan_refuses_a_time_that_no_replica_has(tmp_path: Path) -> None:
    code, output = plan(tmp_path, sweep(), "--rate", 10, "--p99", 0.005)
    assert code == 2
    assert "--p99 must be at least 0.01" in output
    assert "the p99 of one call alone, got 0.005" in " ".join(output.split())


def test_plan_without_a_file_is_one_message(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["plan", "--rate", "1", "--p99", "1", "--from", str(tmp_path / "absent.json")])
    assert result.exit_code == 2
    assert "absent.json cannot be read: No such file or directory" in " ".join(result.output.split())

"""The serving benchmarks run, against real servers of a tiny bundle, and see what they are there to see. No figure is judged."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "benchmarks" / "serving"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="what processes use is read from /proc"),
]

LEAVES_NOTHING = """
import asyncio
import grpc

async def parse(data, context):
    return b""

async def stream(messages, context):
    try:
        async for data in messages:
            await context.write(b"")
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        raise

async def main():
    server = grpc.aio.server()
    handlers = {
        "Parse": grpc.unary_unary_rpc_method_handler(parse),
        "ParseStream": grpc.stream_stream_rpc_method_handler(stream),
    }
    service = "palm_serve.v1.DialogueUnderstanding"
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"listening on 127.0.0.1:{port}\\nready", flush=True)
    await server.wait_for_termination()

asyncio.run(main())
"""
GOES_ON = LEAVES_NOTHING.replace(
    "        raise\n",
    "        while True:\n            await asyncio.wait([asyncio.ensure_future(asyncio.sleep(3600))])\n",
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, make_tiny_bundle: Callable[..., Path]) -> Path:
    return make_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


def run(script: str, bundle: Path, tmp_path: Path, *arguments: object) -> tuple[dict[str, Any], str]:
    """The figures, and what was printed."""
    file = tmp_path / "figures.json"
    command = [sys.executable, SCRIPTS / f"{script}.py", bundle, "--provider", "CPU", "--json", file, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("tiny; ")
    return json.loads(file.read_text()), done.stdout


def test_batch(bundle: Path, tmp_path: Path) -> None:
    figures, told = run("batch", bundle, tmp_path, "--rounds", 2, "--rows", 100)
    assert figures["engine"] == {"provider": "CPU", "precision": "fp32", "variant": "plain"}
    assert (figures["rows"], figures["texts"]) == (100, 3)
    for name in ("clock_ratio", "cpu_ratio", "loop_per_s", "batch_per_s"):
        assert len(figures["rounds"][name]) == 2
        assert min(figures["rounds"][name]) > 0
    assert "goal >= 0.95" in told


def test_oracle(bundle: Path, tmp_path: Path) -> None:
    figures, told = run("oracle", bundle, tmp_path, "--rounds", 1, "--seconds", 0.5, "--callers", 8)
    assert figures["engine"] == "CPU fp32"
    (ratio,), (batch,) = figures["rounds"]["unary_ratio"], figures["rounds"]["batch_ratio"]
    assert 0 < batch < ratio * 100
    assert "goal <= 1.10" in told
    for name in ("oracle_per_s", "echo_per_s", "unary_per_s", "batch_texts_per_s", "engine_alone_ms", "parse_alone_ms"):
        assert figures["rounds"][name][0] > 0


def test_overload(bundle: Path, tmp_path: Path) -> None:
    figures, _ = run("overload", bundle, tmp_path, "--seconds", 1, "--callers", 8)
    rounds = figures["rounds"]
    assert rounds["offered_per_s"][0] > rounds["peak_per_s"][0]
    assert rounds["goodput_to_peak"][0] == pytest.approx(rounds["goodput_per_s"][0] / rounds["peak_per_s"][0])
    # Of a model that costs nothing a busy machine may answer none in time; then too each call has a code.
    assert sum(counts[0] for name, counts in rounds.items() if name.startswith("code_")) > 0
    assert 0 <= rounds["recovered_s"][0] < 4.5


def test_admission(bundle: Path, tmp_path: Path) -> None:
    """Of a model that costs nothing no ratio is judged."""
    figures, told = run(
        "admission", bundle, tmp_path, "--seconds", 0.5, "--callers", 8, "--queues", "8", "--busy", "1", "--quota", 0
    )
    (found,) = figures["rounds"]
    assert list(found) == ["1 busy process"]
    assert found["1 busy process"]["capacity_per_s"] > 0
    loads = found["1 busy process"]["loads"]
    assert [load["times"] for load in loads] == [0.5, 1.0, 3.0]
    for load in loads:
        assert set(load["goodput_per_s"]) == {"own", "8"}
        assert load["best_queue"] == 8
        assert 0 <= load["kept"] <= 1
    assert "1 busy process: capacity, calls/s" in told


def test_admission_counts_what_was_accepted_and_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from admission import kept

    from palm_serve.bench.report import LoadReport

    codes = {"OK": 60, "RESOURCE_EXHAUSTED": 20, "DEADLINE_EXCEEDED": 20}
    report = LoadReport(100, 50.0, 30.0, 30.0, 30.0, codes, {}, {}, {}, 0.1, ())
    assert kept(report) == pytest.approx(60 / 80)


def test_http_cost(bundle: Path, tmp_path: Path) -> None:
    figures, told = run("http_cost", bundle, tmp_path, "--rounds", 1, "--seconds", 0.5, "--callers", 4)
    rounds = figures["rounds"]
    assert 0 < rounds["idle_door_ratio"][0] < 10
    for form in ("proto", "json", "rasa", "oip"):
        assert rounds[f"{form}_cpu_ms"][0] > 0
        assert 0 < rounds[f"{form}_ratio"][0] < 100
    assert "goal <= 1.3" in told


def test_http_neighbours(bundle: Path, tmp_path: Path) -> None:
    figures, told = run("http_neighbours", bundle, tmp_path, "--seconds", 1, "--peers", 4)
    assert len(figures["p99_ms"]) == 9
    for quiet, beside in figures["p99_ms"].values():
        assert min(quiet, beside) > 0
    assert "goal <= 1.5" in told


def test_fairness(bundle: Path, tmp_path: Path) -> None:
    """It measures both clients in both floods. A model that costs nothing is flooded by nobody, so no share is judged."""
    figures, told = run("fairness", bundle, tmp_path, "--seconds", 1)
    rounds = figures["rounds"]
    assert rounds["batch_ms"][0] == pytest.approx(64e3 / rounds["capacity_per_s"][0])
    for name in ("1,000 Parse in flight", "64 ParseBatch of 200"):
        assert 0 <= rounds[f"{name}: answered"][0] <= 100
        assert rounds[f"{name}: texts_per_s"][0] > 0
        assert f"{name}: p99, ms" in told


def test_swaps(bundle: Path, tmp_path: Path) -> None:
    numbers = ("--rounds", 2, "--swaps", 2, "--every", 0.5, "--share", 0.3, "--callers", 4)
    figures, told = run("swaps", bundle, tmp_path, *numbers)
    assert len(figures["swap_s"]) == len(figures["memory_mib"]) == 4
    rounds = figures["rounds"]
    assert min(rounds["calls"]) > 0
    assert rounds["failed_calls"] == [0, 0]
    for ratio, steady, swapped in zip(
        rounds["p99_ratio"], rounds["steady_p99_ms"], rounds["swapped_p99_ms"], strict=True
    ):
        assert ratio == pytest.approx(swapped / steady)
    assert "(goal <= 1.2)" in told


def test_fuzz(bundle: Path, tmp_path: Path) -> None:
    figures, told = run("fuzz", bundle, tmp_path, "--messages", 2000, "--steady", 1)
    assert figures["faults"] == 0, told
    assert sum(figures["codes"].values()) == 2000
    # Neither is everything refused, nor does everything pass.
    assert {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "PERMISSION_DENIED"} <= set(figures["codes"])
    assert {"HTTP 200", "HTTP 400", "HTTP 403", "HTTP 404"} <= set(figures["codes"])
    assert sum(count for code, count in figures["codes"].items() if code.startswith("HTTP")) == 500
    assert min(figures["memory_mib"] + figures["bare_memory_mib"]) > 0


def test_fuzz_sees_faults_of_the_http_door(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from http_mutations import fault

    assert fault(200, b"{}") == fault(400, b"text is empty") == ""
    assert "500" in fault(500, b"Internal Server Error")
    assert "inside" in fault(404, b"palm_serve/registry/models.py")


def test_fuzz_sees_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from fuzz import METHODS, fault

    from palm_serve.v1 import palm_pb2 as pb

    parse, batch = (f"/palm_serve.v1.DialogueUnderstanding/{name}" for name in ("Parse", "ParseBatch"))
    assert {parse, batch} <= set(METHODS)
    assert fault(parse, "OK", "", [pb.ParseResponse(text="a").SerializeToString()]) == ""
    assert fault(parse, "INVALID_ARGUMENT", "text is empty", []) == ""
    assert "UNKNOWN" in fault(parse, "UNKNOWN", "KeyError", [])
    assert "inside" in fault(parse, "NOT_FOUND", "palm_serve/registry/models.py", [])
    failed = pb.ParseItem(error=pb.ItemError(code=13, message="the engine failed"))
    assert "failed" in fault(batch, "OK", "", [pb.ParseBatchResponse(items=[failed]).SerializeToString()])


@pytest.mark.skipif(shutil.which("openssl") is None, reason="the openssl command makes the certificate")
def test_soak(bundle: Path, tmp_path: Path) -> None:
    """Flat, with a margin for what the allocator keeps."""
    figures, told = run("soak", bundle, tmp_path, "--calls", 10_000)
    own = {"OK", "cancelled", "broken off"}
    answered = "answered before it was cancelled"
    over_http = {"HTTP 200", "HTTP cancelled"}
    assert own | over_http <= set(figures["codes"]) <= own | over_http | {answered, f"HTTP {answered}"}
    assert sum(figures["codes"].values()) == 10_000
    assert sum(figures["bare"]["codes"].values()) == 10_000
    assert set(figures["bare"]["codes"]) <= own | {answered}
    assert "goal <= 10" in told
    growth = figures["growth"]
    # A pool that grows on demand may grow late where the machine is busy (seen: by one); a thread a call would be thousands.
    assert growth["threads"] <= 2, told
    assert growth["descriptors"] == 0, told
    assert growth["memory"] < 1.05, told


def test_soak_catches_a_handler_that_goes_on_after_its_cancellation(bundle: Path, tmp_path: Path) -> None:
    grown = {}
    for name, code in (("right", LEAVES_NOTHING), ("wrong", GOES_ON)):
        server = tmp_path / f"{name}.py"
        server.write_text(code)
        grown[name] = run("soak", bundle, tmp_path, "--server", server, "--calls", 4000, "--aborted", 0.3)[0]["growth"]
    assert grown["right"]["memory"] < 1.05 < grown["wrong"]["memory"], grown


def test_one_call(bundle: Path, tmp_path: Path) -> None:
    figures, told = run("one_call", bundle, tmp_path, "--rounds", 2, "--calls", 5)
    rounds = figures["rounds"]
    assert "added to inference and echo" in told
    for name in ("loop_cpu_ms", "engine_thread_cpu_ms", "client_cpu_ms", "call_ms", "inference_ms", "echo_call_ms"):
        assert len(rounds[name]) == 2
        assert min(rounds[name]) > 0
    for index in range(2):
        parts = rounds["call_ms"][index] - rounds["inference_ms"][index] - rounds["echo_call_ms"][index]
        assert rounds["added_ms"][index] == parts

"""A cluster of two machines: `palm_serve.ray:app` behind Ray's HAProxy ingress, and `palm-serve batch --engine ray`.

One module, because the cluster takes a minute to start.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
sys.path.append(str(ROOT / "benchmarks" / "serving"))

import ray_cluster  # noqa: E402
from ray_cluster import ADDRESS, HEAD, NODE, PORT  # noqa: E402

OWN_PORT = 50060
LIMIT_S = 600.0
OPTIONS = ("max_batch_items=100", "max_message_mib=2")
FLAGS = ("--max-batch-items", "100", "--max-message-mib", "2", "--threads", "1")
PARTS, PART_ROWS = 160, 125
TEXT = "please show me flights from boston to new york on monday play a song adele hello weather awful 北京"

HOLD_LOCK = """
import sys
from pathlib import Path
from palm_serve.batch import ray_workers
ray_workers._connect(sys.argv[1])
lock = ray_workers._lock(Path(sys.argv[2]))
print("held", flush=True)
sys.stdin.readline()
"""

SET_VERSION = """
import json, sys
import ray
from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_put
ray.init(sys.argv[1], logging_level="ERROR")
place = {"namespace": b"cluster"}
stored = _internal_kv_get(b"CLUSTER_METADATA", **place)
changed = json.dumps(json.loads(stored) | {"ray_version": "2.1.0"}).encode()
_internal_kv_put(b"CLUSTER_METADATA", changed, overwrite=True, **place)
print("set", flush=True)
sys.stdin.readline()
_internal_kv_put(b"CLUSTER_METADATA", stored, overwrite=True, **place)
"""


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"{what} did not happen within {LIMIT_S:g} s")


@pytest.fixture(scope="module")
def cluster(ray_python: Path) -> Iterator[Any]:
    """Two machines of two CPUs each. Skips where namespaces cannot be made."""
    if reason := ray_cluster.missing():
        pytest.skip(f"Ray listens on all addresses, so it runs in a network namespace only: {reason}")
    with ray_cluster.Cluster(ray_python) as started:
        yield started


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def parts(folder: Path) -> list[Path]:
    return list(folder.glob("*.parquet")) if folder.is_dir() else []


def start(cluster: Any, source: Path, output: Path, bundle: Path, *options: str) -> "subprocess.Popen[str]":
    command = ("-m", "palm_serve.cli", "batch", source, output, "--bundle", bundle, "--engine", "ray")
    process: subprocess.Popen[str] = cluster.start(HEAD, *command, "--address", ADDRESS, *options)
    return process


def finish(process: "subprocess.Popen[str]", code: int = 0) -> tuple[str, str]:
    output, errors = process.communicate(timeout=LIMIT_S)
    assert process.returncode == code, errors
    return output, errors


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("batch") / "in.parquet"
    rows = PARTS * PART_ROWS
    texts = [TEXT[: 1 + row % len(TEXT)] for row in range(rows)]
    pq.write_table(pa.table({"id": range(rows), "text": texts}), path, row_group_size=PART_ROWS)
    return path


@pytest.fixture(scope="module")
def local(cluster: Any, source: Path, tiny_bundle: Path) -> dict[str, bytes]:
    """The answers of this machine alone."""
    output = source.parent / "local"
    cluster.check(HEAD, "-m", "palm_serve.cli", "batch", source, output, "--bundle", tiny_bundle, "--threads", "1")
    return content(output)


def test_killed_worker_and_killed_driver(
    cluster: Any, source: Path, local: dict[str, bytes], tiny_bundle: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    driver = start(cluster, source, output, tiny_bundle, "--workers", "2")
    wait_until(lambda: parts(output), "a part")
    os.kill(min(wait_until(lambda: cluster.pids("ray::_Worker"), "a worker")), signal.SIGKILL)
    wait_until(lambda: len(parts(output)) > 20, "the parts of another worker")
    for pid in cluster.pids("palm_serve.cli"):
        os.kill(pid, signal.SIGKILL)
    driver.communicate(timeout=LIMIT_S)
    early = {path.name: path.stat().st_mtime_ns for path in parts(output)}
    assert not (output / "_SUCCESS.json").exists()
    assert len(early) < PARTS
    told, _ = finish(start(cluster, source, output, tiny_bundle, "--workers", "2"))
    assert told == f"palm-serve: 20,000 rows in 160 parts ({len(early)} of an earlier run), none with an error\n"
    assert {path.name: path.stat().st_mtime_ns for path in parts(output) if path.name in early} == early
    ids = [row for path in sorted(parts(output)) for row in pq.read_table(path)["id"].to_pylist()]
    assert ids == list(range(PARTS * PART_ROWS))
    assert content(output) == local


def test_lines_with_errors(cluster: Any, tiny_bundle: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"text": "hello"}\n{"text": null}\nno JSON\n', encoding="utf-8")
    told, _ = finish(start(cluster, source, tmp_path / "out", tiny_bundle), 1)
    assert told == "palm-serve: 3 rows in 1 parts, 2 with an error\n"
    table = pq.read_table(tmp_path / "out" / "in.jsonl-00000.parquet")
    assert table["intent"].to_pylist() == ["greeting", None, None]


def test_cluster_without_free_cpus_is_told(cluster: Any, source: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    _, errors = finish(start(cluster, source, tmp_path / "out", tiny_bundle, "--workers", "50"), 2)
    assert "palm-serve: the cluster must have 50 free CPUs for 50 workers of 1, got" in errors
    assert parts(tmp_path / "out") == []


def test_missing_cluster_is_told(cluster: Any, source: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    for address, told in (("127.0.0.1:9", "got none at 127.0.0.1:9"), ("ray://here:10001", "must be HOST:PORT")):
        _, errors = finish(start(cluster, source, tmp_path / "out", tiny_bundle, "--address", address), 2)
        assert told in errors


def test_second_driver_is_told(cluster: Any, source: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    """Also where the folder's own lock does not hold, as on some file systems that machines share."""
    output = tmp_path / "out"
    holder = cluster.start(HEAD, "-c", HOLD_LOCK, ADDRESS, output, stdin=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == "held\n"
        _, errors = finish(start(cluster, source, output, tiny_bundle), 2)
    finally:
        holder.communicate("\n", timeout=LIMIT_S)
    assert "must be written by one run, got a second in this cluster" in errors


def test_cluster_of_another_version_is_told(cluster: Any, source: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    setter = cluster.start(HEAD, "-c", SET_VERSION, ADDRESS, stdin=subprocess.PIPE)
    try:
        assert setter.stdout.readline() == "set\n"
        _, errors = finish(start(cluster, source, tmp_path / "out", tiny_bundle), 2)
    finally:
        setter.communicate("\n", timeout=LIMIT_S)
    assert "palm-serve: the cluster must have the Ray and the Python of this machine:" in errors
    assert "2.1.0" in errors


def test_ray_that_is_not_installed_is_told(source: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    arguments = ["palm-serve", "batch", str(source), str(tmp_path / "out"), "--bundle", str(tiny_bundle)]
    arguments += ["--engine", "ray"]
    code = f"import sys; sys.modules['ray'] = None; sys.argv = {arguments}\nfrom palm_serve.cli import main; main()"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert (
        "--engine ray needs ray, which is not installed. To install it, run in a clone of PALM: pip install"
        in done.stderr
    )


def replicas(cluster: Any) -> list[int]:
    found: list[int] = cluster.pids("ray::ServeReplica:default:Palm")
    return found


@pytest.fixture(scope="module")
def served(cluster: Any, tiny_bundle: Path) -> Any:
    """The application, with one replica on each machine."""
    cluster.serve(tiny_bundle, "replicas=2", *OPTIONS)
    return cluster


def test_both_doors_give_the_same_answers_and_statuses(served: Any, tiny_bundle: Path) -> None:
    command = ("-m", "palm_serve.cli", "run", tiny_bundle, "--port", str(OWN_PORT), *FLAGS)
    own = served.start(HEAD, *command, stderr=subprocess.DEVNULL)
    try:
        assert any("ready;" in line for line in own.stdout)
        expected = json.loads(served.check(HEAD, HERE / "doors.py", f"127.0.0.1:{OWN_PORT}"))
        for machine in (HEAD, NODE):
            given = json.loads(served.check(machine, HERE / "doors.py", f"{machine}:{PORT}"))
            assert given == expected
    finally:
        served.stop(own)
    statuses = {name: answer["code"] for name, answer in expected.items() if name.partition(",")[0].isupper()}
    assert statuses == {name: name.partition(",")[0] for name in statuses}
    assert expected["Parse"]["intent"]["name"] == "flight"
    assert len(expected) > 30


@contextmanager
def load_at_both(cluster: Any) -> Iterator[dict[str, Any]]:
    """Calls at a steady rate during the block, from a client that names both proxies. How they ended is there after it."""
    target = f"ipv4:{HEAD}:{PORT},{NODE}:{PORT}"
    load = cluster.start(HEAD, HERE / "load.py", target, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    told: dict[str, Any] = {}
    try:
        assert load.stdout.readline() == "begun\n"
        yield told
        output, _ = load.communicate("end\n", timeout=LIMIT_S)
        told.update(json.loads(output))
    finally:
        cluster.stop(load)


def test_killed_replica_costs_no_call(served: Any) -> None:
    """Clients name both proxies, and ask again on UNAVAILABLE, as Parse may be."""
    before = replicas(served)
    assert len(before) == 2
    with load_at_both(served) as told:
        os.kill(before[0], signal.SIGKILL)
        wait_until(lambda: len(set(replicas(served)) - {before[0]}) == 2, "another replica")
    assert told["failures"] == []
    assert told["calls"] > 10


def test_killed_node_costs_no_call(served: Any) -> None:
    """The last test of the module: the node does not come back. Its replica is started again on the other one."""
    assert served.pids("ray::ServeReplica", NODE)
    assert served.pids("haproxy", NODE)
    kept = served.pids("ray::ServeReplica", HEAD)
    with load_at_both(served) as told:
        served.kill(NODE)
        wait_until(lambda: len(served.pids("ray::ServeReplica", HEAD)) > len(kept), "another replica")
    assert told["failures"] == []
    assert told["calls"] > 10
    assert set(kept) < set(replicas(served))

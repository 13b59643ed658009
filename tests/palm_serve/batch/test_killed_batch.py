"""`palm-serve batch` in processes of their own: killed at several moments and run again, the answers are the same bytes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

LIMIT_S = 300.0
PARTS = 160


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.002)
    raise AssertionError(f"{what} did not happen within {LIMIT_S:g} s")


def parts(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*.parquet") if not path.name.startswith(".")] if folder.is_dir() else []


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def finish(process: "subprocess.Popen[str]") -> str:
    output, errors = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, errors
    return output


def children(process: "subprocess.Popen[str]") -> list[int]:
    """Workers of a run: its children but for the tracker of multiprocessing."""
    try:
        listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        return [pid for pid in map(int, listed) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    except OSError:
        return []


def is_gone(pid: int) -> bool:
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True


@pytest.fixture
def source(make_parquet: Callable[..., Path]) -> Path:
    return make_parquet(3_000, 20)


@pytest.fixture(scope="module")
def complete(undisturbed: Path) -> dict[str, bytes]:
    """The bytes of a run that nothing disturbed, which has each row once."""
    ids = [row for path in sorted(parts(undisturbed)) for row in pq.read_table(path)["id"].to_pylist()]
    assert ids == list(range(20_000))
    return content(undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_run_goes_on_and_ends_with_the_same_bytes(
    workers: int,
    long_source: Path,
    tiny_bundle: Path,
    tmp_path: Path,
    complete: dict[str, bytes],
    start_batch: Callable[..., Any],
) -> None:
    out = tmp_path / "out"
    arguments = (long_source, out, "--bundle", tiny_bundle, "--workers", workers)
    for moment in (1, 40):
        process = start_batch(*arguments)
        wait_until(lambda moment=moment: len(parts(out)) >= moment, "a part")
        workers_of_run = children(process)
        assert len(workers_of_run) == (workers if workers > 1 else 0)
        process.kill()
        assert process.wait(LIMIT_S) == -signal.SIGKILL
        for pid in workers_of_run:
            wait_until(lambda pid=pid: is_gone(pid), "the end of a worker whose parent was killed")
        assert not (out / "_SUCCESS.json").exists()
        early = {path.name: path.stat().st_mtime_ns for path in parts(out)}
        assert len(early) < PARTS
    told = finish(start_batch(*arguments))
    assert f"({len(early)} of an earlier run)" in told
    assert content(out) == complete
    assert {path.name: path.stat().st_mtime_ns for path in parts(out) if path.name in early} == early


@pytest.mark.slow
def test_killed_workers_are_replaced(
    long_source: Path, tiny_bundle: Path, tmp_path: Path, complete: dict[str, bytes], start_batch: Callable[..., Any]
) -> None:
    out = tmp_path / "out"
    process = start_batch(long_source, out, "--bundle", tiny_bundle, "--workers", 2)
    killed = set()
    for moment in (1, 30, 60):
        wait_until(lambda moment=moment: len(parts(out)) >= moment, "a part")
        # The oldest is another one each time, with another part.
        pid = min(wait_until(lambda: set(children(process)) - killed, "a worker"))
        os.kill(pid, signal.SIGKILL)
        killed.add(pid)
    finish(process)
    assert len(killed) == 3
    assert content(out) == complete


def test_ended_run_leaves_no_worker_and_no_unfinished_file(
    source: Path, tiny_bundle: Path, tmp_path: Path, start_batch: Callable[..., Any]
) -> None:
    out = tmp_path / "out"
    process = start_batch(source, out, "--bundle", tiny_bundle, "--workers", 2)
    wait_until(lambda: parts(out), "a part")
    workers = wait_until(lambda: children(process), "a worker")
    process.terminate()
    process.communicate(timeout=LIMIT_S)
    assert process.returncode == 128 + signal.SIGTERM
    for pid in workers:
        wait_until(lambda pid=pid: is_gone(pid), "the end of a worker")


def test_exit_codes(source: Path, tiny_bundle: Path, tmp_path: Path, start_batch: Callable[..., Any]) -> None:
    rows = tmp_path / "in.jsonl"
    rows.write_text('{"text": "hello"}\n{"text": null}\n', encoding="utf-8")
    process = start_batch(rows, tmp_path / "out", "--bundle", tiny_bundle)
    output, errors = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, output) == (1, "palm-serve: 2 rows in 1 parts, 1 with an error\n"), errors
    process = start_batch(source, tmp_path / "out", "--bundle", tiny_bundle)
    output, errors = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, output) == (2, "")
    assert "palm-serve: " in errors
    assert "that are not in the input now" in errors


def test_missing_pyarrow_is_told(source: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    arguments = ["palm-serve", "batch", str(source), str(tmp_path / "out"), "--bundle", str(tiny_bundle)]
    code = f"import sys; sys.modules['pyarrow'] = None; sys.argv = {arguments}\nfrom palm_serve.cli import main; main()"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert (
        "batch needs pyarrow, which is not installed. To install it, run in a clone of PALM: pip install" in done.stderr
    )

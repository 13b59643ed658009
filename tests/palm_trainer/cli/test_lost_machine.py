"""Two machines, as two network namespaces with a cable between them, which is cut: no connection is closed, nothing is answered."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

PATIENCE = 12
LIMIT = 240
SETTINGS = (
    *("train.epochs=80", "train.evaluations=2", "train.log_every_steps=1"),
    "train.checkpoints.save_every_steps=40",
)
STORE = "10.77.0.1:29700"
TOGETHER = ("--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "10.77.0.1", "--master-port", "29700")


def ip(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *words], capture_output=True, text=True)


@pytest.fixture
def machines() -> Iterator[list[str]]:
    """Names of two namespaces, 10.77.0.1 and 10.77.0.2 on the interface `cable`."""
    names = [f"palm{os.getpid()}{letter}" for letter in "ab"]
    try:
        for name in names:
            made = ip("netns", "add", name)
            if made.returncode:
                pytest.skip(f"no network namespaces here: {made.stderr.strip()}")
        ip("link", "add", "cable", "netns", names[0], "type", "veth", "peer", "name", "cable", "netns", names[1])
        for number, name in enumerate(names, start=1):
            ip("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", "cable")
            ip("-n", name, "link", "set", "lo", "up")
            assert ip("-n", name, "link", "set", "cable", "up").returncode == 0
        yield names
    finally:
        for name in names:
            for process in ip("netns", "pids", name).stdout.split():
                with suppress(ProcessLookupError):
                    os.kill(int(process), signal.SIGKILL)
            ip("netns", "del", name)


def set_cable(machine: str, state: str) -> None:
    assert ip("-n", machine, "link", "set", "cable", state).returncode == 0


@pytest.fixture
def start(
    tiny_toml: Callable[..., Path], tmp_path: Path, machines: list[str]
) -> Callable[[str], list[subprocess.Popen]]:
    """`start(name)`: one torchrun on each machine, by the documented command. Its output is in `NAME.RANK.log`."""
    tiny_toml()
    command = ["-m", "palm_trainer.cli.train", "run", str(tmp_path / "tiny.toml"), "--resume", "auto"]
    command += ["--patience", str(PATIENCE)]
    for setting in SETTINGS:
        command += ["--set", setting]

    def start_both(name: str) -> list[subprocess.Popen]:
        started = []
        for rank, machine in enumerate(machines):
            launcher = [sys.executable, "-m", "torch.distributed.run", *TOGETHER, "--node-rank", str(rank)]
            with (tmp_path / f"{name}.{rank}.log").open("w") as log:
                environment = {**os.environ, "GLOO_SOCKET_IFNAME": "cable", "OMP_NUM_THREADS": "1"}
                words = ["ip", "netns", "exec", machine, *launcher, *command]
                started.append(subprocess.Popen(words, stdout=log, stderr=log, env=environment))
        return started

    return start_both


def wait_until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("ip") is None, reason="iproute2 is not installed")
def test_each_side_names_the_other_and_the_run_goes_on(start, tmp_path, machines) -> None:
    """The torchrun of the first keeps the store, so that the second has nobody else to ask. With the cable back, the same commands finish the run."""
    launchers = start("cut")
    events = tmp_path / "run/events.jsonl"

    def in_a_step() -> bool:
        assert all(launcher.poll() is None for launcher in launchers)
        return events.exists() and '"step": 50,' in events.read_text()

    wait_until(in_a_step, "step 50")
    set_cable(machines[0], "down")
    silent = f"has been silent for {PATIENCE} s (--patience)"
    told = [f"error: process 1 of 2 {silent}", f"error: torchrun at {STORE}, where the processes meet, {silent}"]
    assert [launcher.wait(LIMIT) for launcher in launchers] == [1, 1]
    for rank, message in enumerate(told):
        assert message in (tmp_path / f"cut.{rank}.log").read_text()

    set_cable(machines[0], "up")
    assert [launcher.wait(LIMIT) for launcher in start("mended")] == [0, 0]
    logged = [json.loads(line) for line in events.read_text().splitlines()]
    first, second = (event for event in logged if event["event"] == "start")
    assert first["step"] == 0 < second["step"]
    assert logged[-1]["step"] == second["total_steps"]

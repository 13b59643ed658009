"""Two machines, as two network namespaces with a cable between them, which is cut: no connection is closed, nothing is answered."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PATIENCE = 12
LIMIT = 240


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
            ip("netns", "del", name)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("ip") is None, reason="iproute2 is not installed")
def test_each_side_names_the_other(tiny_toml, tmp_path, machines):
    """The first keeps the store, so that the second has nobody to ask."""
    tiny_toml()
    settings = ["--set", "train.epochs=5000", "--set", "train.evaluations=2", "--set", "train.log_every_steps=1"]
    command = [sys.executable, "-m", "palm_trainer.cli.train", "run", str(tmp_path / "tiny.toml"), *settings]
    processes = []
    try:
        for rank, name in enumerate(machines):
            place = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": "0", "GROUP_RANK": str(rank)}
            meeting = {"MASTER_ADDR": "10.77.0.1", "MASTER_PORT": "29700", "GLOO_SOCKET_IFNAME": "cable"}
            words = ["ip", "netns", "exec", name, *command, "--patience", str(PATIENCE)]
            with Path(tmp_path / f"{rank}.log").open("w") as log:
                environment = {**os.environ, **place, **meeting, "OMP_NUM_THREADS": "1"}
                processes.append(subprocess.Popen(words, stdout=log, stderr=log, env=environment))
        events = tmp_path / "run/events.jsonl"
        end = time.monotonic() + LIMIT
        while not (events.exists() and '"step": 100,' in events.read_text()):
            assert time.monotonic() < end
            assert all(process.poll() is None for process in processes)
            time.sleep(0.1)
        assert ip("-n", machines[0], "link", "set", "cable", "down").returncode == 0
        assert [process.wait(LIMIT) for process in processes] == [2, 2]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for rank, other in ((0, 1), (1, 0)):
        told = (tmp_path / f"{rank}.log").read_text()
        assert f"error: process {other} of 2 has been silent for {PATIENCE} s (--patience)" in told

"""No command resolves a name, connects beyond this machine, or writes outside PALM's own directories.

Each command runs as a process with an empty home. An audit hook of Python, which `sitecustomize` installs in every
process and in those that it starts, records each name that is resolved and each address that is connected to.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
RECORDER = """
import json, os, sys

def record(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        host = arguments[0]
    elif event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host
    line = json.dumps([sys.argv[:2], event, host]) + chr(10)
    descriptor = os.open(os.environ["RECORDED_NAMES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, line.encode())
    os.close(descriptor)

sys.addaudithook(record)
"""
THIS_MACHINE = {None, "", "localhost", "127.0.0.1", "::1", "0.0.0.0", "::"}
CONFIG = """
[encoder]
model = "minilm-l6-en"
max_length = 16
[data.travel]
format = "jsonl"
train = "train.jsonl"
dev = "train.jsonl"
test = "train.jsonl"
[tasks.intent]
kind = "classify"
role = "intent"
data = ["travel"]
[tasks.slots]
kind = "sequence_label"
role = "slots"
data = ["travel"]
[train]
epochs = 1
batch_size = 8
precision = "fp32"
device = "cpu"
trackers = ["tensorboard"]
output = "run"
"""


class Machine:
    """Runs commands in a folder, with an empty home and a record of every name and address."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir()
        self._record = folder / "names.jsonl"
        site = folder / "site"
        site.mkdir()
        (site / "sitecustomize.py").write_text(RECORDER, encoding="utf-8")
        dropped = ("ORT_DISABLE_TELEMETRY", "HF_HUB_OFFLINE", "HF_HOME", "XDG_CACHE_HOME", "CI")
        self.environment = {key: value for key, value in os.environ.items() if key not in dropped}
        self.environment["HOME"] = str(self.home)
        self.environment["PYTHONPATH"] = os.pathsep.join([str(site), str(ROOT)])
        self.environment["RECORDED_NAMES"] = str(self._record)

    def run(self, program: str, *arguments: str) -> str:
        """Run a command, which must succeed, and return its standard output."""
        command = [str(BIN / program), *arguments]
        result = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)
        assert result.returncode == 0, f"{command}: {result.stderr}"
        return result.stdout

    def strangers(self) -> list[str]:
        """Return what was asked of other machines, a line each."""
        if not self._record.exists():
            return []
        lines = self._record.read_text(encoding="utf-8").splitlines()
        return [line for line in lines if json.loads(line)[2] not in THIS_MACHINE]

    def files_in_home(self) -> list[str]:
        """Return the files in the home outside PALM's own cache."""
        found = []
        for path in sorted(self.home.rglob("*")):
            name = path.relative_to(self.home).as_posix()
            if path.is_file() and not name.startswith(".cache/palm/"):
                found.append(name)
        return found

    def check(self) -> None:
        """Assert that nothing was asked of other machines and that the home is as it was."""
        assert self.strangers() == []
        assert self.files_in_home() == []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_the_record_sees_names_and_files(machine: Machine) -> None:
    script = (
        "import pathlib, socket\n"
        "try:\n    socket.getaddrinfo('palm.invalid', 443)\nexcept OSError:\n    print('no such name')\n"
        "(pathlib.Path.home() / 'left').touch()"
    )
    command = [sys.executable, "-c", script]
    subprocess.run(command, env=machine.environment, check=True, stdout=subprocess.DEVNULL)
    assert len(machine.strangers()) == 1
    assert "palm.invalid" in machine.strangers()[0]
    assert machine.files_in_home() == ["left"]


def test_check_with_the_default_provider(machine: Machine, tiny_bundle: Path) -> None:
    """OpenVINO, where it is installed, is imported to be measured."""
    machine.run("palm-serve", "check", str(tiny_bundle))
    machine.check()


@pytest.mark.slow
def test_the_whole_chain(machine: Machine, start_process: Callable[..., "subprocess.Popen[str]"]) -> None:
    rows = []
    for number in range(24):
        city = ("boston", "oslo", "rome")[number % 3]
        slot = {"start": 3, "end": 3 + len(city), "label": "city"}
        rows.append({"text": f"to {city}", "intent": "travel", "slots": [slot]})
        rows.append({"text": f"play {city}", "intent": "music", "slots": []})
    lines = [json.dumps(row) + "\n" for row in rows]
    (machine.folder / "train.jsonl").write_text("".join(lines), encoding="utf-8")
    (machine.folder / "palm.toml").write_text(CONFIG, encoding="utf-8")
    machine.run("palm-train", "init", "train.jsonl", "--output", "init.toml")
    machine.run("palm-train", "plan", "palm.toml")
    machine.run("palm-train", "convert", "train.jsonl", "rows.parquet")
    machine.run("palm-train", "run", "palm.toml")
    machine.run("palm-train", "run", "palm.toml", "--output", "other", "--set", "train.balancing.method=cagrad")
    machine.run("palm-train", "evaluate", "run", "--split", "test")
    machine.run("palm-train", "predict", "run", "--text", "to oslo")
    machine.run("palm-train", "models", "ls")
    machine.run("palm-export", "run", "--output", "bundle")
    machine.check()
    server = start_process(
        [BIN / "palm-serve", "run", "bundle", "--port", "0"],
        cwd=machine.folder,
        env=machine.environment,
        stderr=subprocess.STDOUT,
    )
    target = None
    for line in server.stdout or ():
        found = re.search(r"listening on (\S+)", line)
        target = found[1] if found else target
        if "ready" in line:
            break
    assert target, f"the server ended with {server.wait()}"
    machine.run("palm-serve", "health", target)
    machine.run("palm-serve", "call", "to oslo", "--target", target)
    server.send_signal(signal.SIGTERM)
    server.communicate(timeout=600)
    assert server.returncode == 0
    machine.check()

"""What the serving benchmarks share: servers in processes of their own, what they use of the machine, loads beside which that is measured."""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.extend(str(path) for path in (ROOT, ROOT / "benchmarks"))

from common import commit, machine, mean_and_half_interval, today  # noqa: E402

from palm_serve.bench.load import Load  # noqa: E402
from palm_serve.bench.report import LoadReport  # noqa: E402
from palm_serve.bench.run import run_load  # noqa: E402
from palm_serve.bundle.loader import load_bundle  # noqa: E402
from palm_serve.bundle.manifest import Manifest  # noqa: E402

_TICKS = os.sysconf("SC_CLK_TCK")
_STOP_S = 60
PATIENT_S = 30.0
"""The deadline where a load looks for the capacity: nothing is refused."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process uses. From /proc, so only on Linux."""

    cpu_s: float
    memory_mib: float
    threads: int
    descriptors: int


class Process:
    """A server in a process of its own, ready when entered. Its first line with an address tells where it listens."""

    def __init__(
        self, *command: str | Path, ready: str = "ready", on_line: Callable[[str], None] = lambda line: None
    ) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            [sys.executable, *map(str, command)], stdout=subprocess.PIPE, text=True, env=environment
        )
        self.target = ""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            on_line(line)
            if found := re.search(r"listening on (?!http)(\S+)", line):
                self.target = found[1]
            if ready in line:
                return
        sys.exit(f"{' '.join(map(str, command))} ended with exit code {self._process.wait()} before it was ready")

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def usage(self) -> Usage:
        """What it uses now, and has used of the processor."""
        return usage(self.pid)

    def __enter__(self) -> "Process":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> int:
        """Tells it to end and waits; the exit code."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        return self._process.returncode


def usage(pid: int) -> Usage:
    """What a process uses."""
    # Behind the name, which may hold spaces.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    status = Path(f"/proc/{pid}/status").read_text()
    memory, threads = (int(re.search(rf"{name}:\s+(\d+)", status)[1]) for name in ("VmRSS", "Threads"))
    return Usage(
        (int(fields[11]) + int(fields[12])) / _TICKS, memory / 1024, threads, len(os.listdir(f"/proc/{pid}/fd"))
    )


def palm(*arguments: str | Path) -> Process:
    """`palm-serve run` on a free port."""
    return Process("-m", "palm_serve.cli", "run", *arguments, "--port", "0", "--log-level", "error")


class Door(Process):
    """`palm-serve run` on free ports, with an HTTP door. `http_port` is the door's."""

    def __init__(self, *arguments: str | Path) -> None:
        self.http_port = 0
        ports = ("--port", "0", "--http-port", "0", "--log-level", "error")
        super().__init__("-m", "palm_serve.cli", "run", *arguments, *ports, on_line=self._read)

    def _read(self, line: str) -> None:
        if found := re.search(r"listening on https?://127\.0\.0\.1:(\d+)", line):
            self.http_port = int(found[1])


def echo() -> Process:
    """A gRPC service that does nothing."""
    return Process(Path(__file__).with_name("echo.py"))


def measured(process: Process, load: Load) -> tuple[LoadReport, float]:
    """A load's report, and the server's processor seconds per answered call."""
    marks: list[float] = []

    def watch(begins: float) -> None:
        def mark() -> None:
            for moment in (begins + load.warm_up_s, begins + load.warm_up_s + load.duration_s):
                time.sleep(max(0.0, moment - time.monotonic()))
                marks.append(process.usage().cpu_s)

        thread = threading.Thread(target=mark)
        thread.start()
        threads.append(thread)

    threads: list[threading.Thread] = []
    report = run_load(load, watch)
    for thread in threads:
        thread.join()
    return report, (marks[1] - marks[0]) / max(1.0, report.answered * load.duration_s)


def bundle_texts(bundle: Path) -> tuple[str, ...]:
    """The bundle's golden examples that are single texts."""
    texts = tuple(example.text for example in load_bundle(bundle).golden if example.pair is None)
    return texts or sys.exit(f"{bundle} has no golden example of a single text: name texts with --texts FILE")


def copies(bundle: Path, folder: Path, count: int) -> list[Path]:
    """Copies of a bundle that differ in their version only: a line of the README. The graphs of all are one file on the disk."""
    made = []
    for number in range(count):
        copy = folder / f"copy{number}"
        shutil.copytree(made[0] if made else bundle, copy, copy_function=_link_graph if made else shutil.copy2)
        with (copy / "README.md").open("a", encoding="utf-8") as file:
            file.write(f"\nCopy {number} for a benchmark.\n")
        content = json.loads((copy / "manifest.json").read_text(encoding="utf-8"))
        content["files"]["README.md"] = _sha256(copy / "README.md")
        manifest = Manifest.model_validate(content)
        content["version"] = manifest.digest()
        (copy / "manifest.json").write_text(json.dumps(content), encoding="utf-8")
        made.append(copy)
    return made


def _link_graph(source: str, target: str) -> str:
    """Link a graph, and copy any other file."""
    if source.endswith(".onnx"):
        os.link(source, target)
        return target
    return shutil.copy2(source, target)


def _sha256(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def options(description: str, **defaults: Any) -> argparse.ArgumentParser:
    """A parser with the options that all scripts have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--texts", type=Path, help="one text a line; default: the bundle's golden examples")
    parser.add_argument("--provider", default="auto")
    parser.add_argument("--processes", type=int, default=1, help="of the load generator")
    parser.add_argument("--json", type=Path, help="write all figures there")
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=type(value), default=value, help=f"default: {value}")
    return parser


def chosen_texts(arguments: argparse.Namespace) -> tuple[str, ...]:
    """Those of --texts or of the bundle."""
    if arguments.texts is None:
        return bundle_texts(arguments.bundle)
    return tuple(line for line in arguments.texts.read_text(encoding="utf-8").splitlines() if line.strip())


def middle(values: Sequence[float], digits: int = 2) -> str:
    """Median and range over the rounds."""
    found = f"{statistics.median(values):,.{digits}f}"
    return found if len(values) == 1 else f"{found} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def with_interval(values: Sequence[float]) -> str:
    """Return the mean over the rounds and half of its 95 % interval."""
    mean, half = mean_and_half_interval(values)
    return f"{mean:.2f} ± {half:.2f}" if len(values) > 1 else f"{mean:.2f}"


def finish(arguments: argparse.Namespace, rows: Sequence[tuple[str, str, str]], figures: dict[str, Any]) -> None:
    """Prints what was measured beside its goal, and where; `--json` gets all figures."""
    width = max(len(name) for name, _, _ in rows)
    print(f"{arguments.bundle.name}; {machine()}; commit {commit() or 'unknown'}; other load: {os.getloadavg()[0]:.1f}")
    for name, value, goal in rows:
        print(f"{name:<{width}}  {value}{f'  (goal {goal})' if goal else ''}")
    for doubt in dict.fromkeys(figures.get("doubts", ())):
        print(f"unreliable figures: {doubt}")
    if arguments.json is not None:
        told = {"machine": machine(), "commit": commit(), "date": today(), "bundle": arguments.bundle.name, **figures}
        arguments.json.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def beside(work: Callable[[], None]) -> threading.Thread:
    """Begins some work in a thread."""
    thread = threading.Thread(target=work)
    thread.start()
    return thread

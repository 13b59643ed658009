"""What every test shares: a quiet, offline environment, and the public data sets where the machine has them."""

import importlib.util
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

# Set before any test module imports a library that reads them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # models here are tiny; threads that wait for each other cost more than they give
os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads and fork do not mix; it warns about that
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # tests may import onnxruntime before palm_serve.engine switches it off
os.environ["no_grpc_proxy"] = "127.0.0.1,localhost"  # noqa: SIM112 - gRPC heeds lower case only; tests open plain channels
os.environ["NO_COLOR"] = "1"  # so that help and tables can be compared as plain text
os.environ["COLUMNS"] = "120"


TESTS_END = "PALM_TESTS_END"
"""Variable with the time, in seconds since 1970, after which no slow test begins. `.ci/run` sets it."""

_PALM_DATA = os.environ.get("PALM_DATA")  # tests set the variable for code that reads it

StartProcess = Callable[..., "subprocess.Popen[str]"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests that install environments of their own after all others."""
    items.sort(key=lambda item: "environments" in getattr(item, "fixturenames", ()))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a slow test for which no time is left."""
    end = os.environ.get(TESTS_END)
    if end and item.get_closest_marker("slow") and time.time() > float(end):
        pytest.skip(f"no time is left: {TESTS_END} has passed. `make test-slow` runs every test.")


@pytest.fixture(scope="session")
def process_limit_s() -> float:
    """Seconds after which a process counts as hung. At a load of 10 on two cores the start of torch alone takes a minute."""
    return 600.0


@pytest.fixture
def start_process() -> Iterator[StartProcess]:
    """`start_process(COMMAND, **POPEN)`: a process with pipes for text, killed and closed when the test ends.

    A pipe that a failed test leaves open would fail another test with a ResourceWarning.
    """
    processes: list[subprocess.Popen[str]] = []

    def start(command: Sequence[str | Path], **options: Any) -> "subprocess.Popen[str]":
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        processes.append(subprocess.Popen(list(map(str, command)), text=True, **(pipes | options)))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


@pytest.fixture(scope="session")
def palm_data() -> Path:
    """The directory of the public data sets (ATIS, SNIPS, ...), from the environment's PALM_DATA; skips without it."""
    directory = _PALM_DATA
    if not directory:
        pytest.skip("needs the public data sets: set PALM_DATA to their directory")
    path = Path(directory).resolve()
    if not path.is_dir():
        pytest.fail(f"PALM_DATA is {directory!r}, which is no directory; mend or unset it")
    return path


@pytest.fixture(scope="session")
def environments() -> ModuleType:
    """Return `tests/environments.py`, which makes environments of real clients: see its functions."""
    spec = importlib.util.spec_from_file_location("environments", Path(__file__).with_name("environments.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

"""Environments of slow tests: packages that the project's own environment lacks, installed once and kept.

They lie in the folder of the variable PALM_TEST_ENVIRONMENTS, outside the repository (default: palm/tests in the user's
cache). The code of the repository is not installed in them: start their Python with PYTHONPATH.
"""

import fcntl
import hashlib
import os
import re
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_CONSTRAINTS = ROOT / "constraints.txt"
_UNREACHABLE = ("NewConnectionError", "ConnectTimeoutError", "No matching distribution found")


def make_environment(name: str, requirements: Sequence[str]) -> Path:
    """Return the Python of an environment with some packages. The first call makes it, which may take minutes.

    A call after a change of constraints.txt installs again what the change concerns.

    Args:
        name: name of the environment.
        requirements: what pip installs. `palm-nlu[EXTRA]` is what that extra of pyproject.toml requires.

    Returns:
        The path of the interpreter. The test is skipped where pip cannot get a package.
    """
    wanted = [requirement for given in requirements for requirement in _expanded(given)]
    key = _digest([sys.version, *wanted])[:12]
    folder = _environments() / f"{name}-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    python = folder / "bin" / "python"
    state = folder / "installed"
    content = _digest([*wanted, _CONSTRAINTS.read_text(encoding="utf-8")])
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not state.exists() or state.read_text() != content:
            state.unlink(missing_ok=True)
            venv.create(folder, with_pip=True)
            _install(name, python, wanted)
            state.write_text(content)
    return python


def _install(name: str, python: Path, wanted: Sequence[str]) -> None:
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "1"]
    done = subprocess.run([*pip, "-c", _CONSTRAINTS, *wanted], capture_output=True, text=True)
    if done.returncode and any(sign in done.stderr for sign in _UNREACHABLE):
        pytest.skip(f"pip cannot get a package of the environment '{name}': {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr


def _environments() -> Path:
    given = os.environ.get("PALM_TEST_ENVIRONMENTS")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "palm" / "tests"


def _expanded(requirement: str) -> Iterator[str]:
    """Yield a requirement, or for extras of this project what they require."""
    found = re.fullmatch(r"palm-nlu\[([\w,-]+)\]", requirement)
    if found is None:
        yield requirement
        return
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for extra in found[1].split(","):
        for inner in extras[extra]:
            yield from _expanded(inner)


def _digest(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()

"""Environments of slow tests: packages of pip, npm and Debian that the project's own environment lacks, installed once and kept.

They lie in the folder of the variable PALM_TEST_ENVIRONMENTS, outside the repository (default: palm/tests in the user's
cache). The code of the repository is not installed in them: start their Python with PYTHONPATH.

A test gets this module as the fixture `environments`.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
_CONSTRAINTS = ROOT / "constraints.txt"
_UNREACHABLE = (
    *("NewConnectionError", "ConnectTimeoutError", "No matching distribution found"),
    *("ENOTFOUND", "ECONNREFUSED", "EAI_AGAIN", "ETIMEDOUT", "ENOTCACHED", "E404", "ETARGET"),
)
"""Words of pip and npm where their registry, or a package in it, cannot be had."""
_INSTALL_LIMIT_S = 1200
_OWN_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


def make_environment(
    name: str,
    requirements: Sequence[str],
    alone: Sequence[str] = (),
    version: str = _OWN_VERSION,
    constrained: bool = True,
) -> Path:
    """Return the Python of an environment with some packages. The first call makes it, which may take minutes.

    A call after a change of constraints.txt installs again what the change concerns.

    Args:
        name: name of the environment.
        requirements: what pip installs. `palm-nlu[EXTRA]` is what the project and that extra require.
        alone: what pip installs without its dependencies, for packages that are larger than what a test uses of them.
        version: version of Python. The test is skipped where the machine has none.
        constrained: keep to constraints.txt. False: the packages do not agree with it.

    Returns:
        The path of the interpreter. The test is skipped where pip cannot get a package.
    """
    wanted = list(dict.fromkeys(requirement for given in requirements for requirement in _expanded(given)))
    key = _digest([sys.version if version == _OWN_VERSION else version, *wanted, *alone])[:12]
    folder = _environments() / f"{name}-{key}"
    python = folder / "bin" / "python"
    limits = ["-c", str(_CONSTRAINTS)] if constrained else []
    content = _digest([*wanted, *alone, _CONSTRAINTS.read_text(encoding="utf-8") if constrained else ""])
    with _missing(folder, content) as missing:
        if missing:
            subprocess.run([_find_python(version), "-m", "venv", folder], check=True)
            pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "1"]
            if wanted:
                _install(name, [*pip, *limits, *wanted])
            if alone:
                _install(name, [*pip, "--no-deps", *alone])
    return python


def make_node_project(name: str, packages: Sequence[str]) -> Path:
    """Return a folder with packages of npm. Tests must not write into it. The first call makes it.

    Args:
        name: name of the project.
        packages: what npm installs, such as `@connectrpc/connect@2.1.2`.

    Returns:
        The folder of `node_modules`. The test is skipped where npm is missing or cannot get a package.
    """
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("node and npm are not installed")
    content = _digest(packages)
    folder = _environments() / f"{name}-{content[:12]}"
    with _missing(folder, content) as missing:
        if missing:
            (folder / "package.json").write_text('{"private": true}', encoding="utf-8")
            npm = ["npm", "install", "--prefix", folder, "--no-audit", "--no-fund", "--no-package-lock"]
            _install(name, [*npm, *packages])
    return folder / "node_modules"


def unpack_debian(package: str) -> Path:
    """Return the folder of the files of a Debian package, which is not installed. The first call fetches it.

    The test is skipped where the machine is no Debian, or apt cannot get the package.
    """
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        pytest.skip("apt-get and dpkg-deb are not installed")
    content = _digest([package])
    folder = _environments() / f"debian-{package}-{content[:12]}"
    with _missing(folder, content) as missing:
        if missing:
            fetched = subprocess.run(["apt-get", "download", package], cwd=folder, capture_output=True, text=True)
            if fetched.returncode:
                # The lists of packages may be missing or old.
                subprocess.run(["apt-get", "update"], capture_output=True)
                fetched = subprocess.run(["apt-get", "download", package], cwd=folder, capture_output=True, text=True)
            archives = sorted(folder.glob("*.deb"))
            if fetched.returncode or not archives:
                pytest.skip(f"apt-get cannot get {package}: {fetched.stderr.strip()[-300:]}")
            subprocess.run(["dpkg-deb", "-x", archives[-1], folder / "files"], check=True)
            archives[-1].unlink()
    return folder / "files"


def run_python(python: Path, script: str, *arguments: str | Path, timeout_s: float = 600) -> Any:
    """Run a script, and return the JSON in its last line of output.

    Args:
        python: the interpreter of an environment.
        script: the source.
        arguments: its arguments.
        timeout_s: seconds after which it counts as hung.
    """
    return _last_line([python, "-c", script, *arguments], timeout_s)


def run_node(modules: Path, script: Path, *arguments: str | Path, timeout_s: float = 600) -> Any:
    """Run a script of Node, and return the JSON in its last line of output.

    Args:
        modules: what `make_node_project` returned. A link beside the script leads to it.
        script: the file.
        arguments: its arguments.
        timeout_s: seconds after which it counts as hung.
    """
    link = script.with_name("node_modules")
    if not link.exists():
        link.symlink_to(modules, target_is_directory=True)
    return _last_line(["node", script, *arguments], timeout_s)


def _last_line(command: Sequence[str | Path], timeout_s: float) -> Any:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=timeout_s)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.rstrip("\n").rpartition("\n")[2])  # texts may hold other ends of lines


@contextmanager
def _missing(folder: Path, content: str) -> Iterator[bool]:
    """Hold the lock of an environment. True: it must be made, and counts as made once the block ends without an error.

    Args:
        folder: the folder.
        content: digest of what it holds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = folder / "installed"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = not state.exists() or state.read_text() != content
        if missing:
            state.unlink(missing_ok=True)
        yield missing
        if missing:
            state.write_text(content)


def _find_python(version: str) -> Path:
    if version == _OWN_VERSION:
        return Path(sys.executable)
    found = shutil.which(f"python{version}")
    # A shim of pyenv is there although the version may not be.
    if found and not subprocess.run([found, "--version"], capture_output=True).returncode:
        return Path(found)
    of_pyenv = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"))
    if not of_pyenv:
        pytest.skip(f"Python {version} is not installed")
    return of_pyenv[-1]


def _install(name: str, command: Sequence[str | Path]) -> None:
    limit_s = _time_left_s()
    try:
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=limit_s)
    except subprocess.TimeoutExpired:
        pytest.skip(f"the environment '{name}' could not be installed within {limit_s:.0f} s")
    if done.returncode and any(sign in done.stderr for sign in _UNREACHABLE):
        last = done.stderr.strip().splitlines()[-1]
        pytest.skip(f"a package of the environment '{name}' cannot be had: {last}")
    assert done.returncode == 0, done.stderr


def _time_left_s() -> float:
    """Return how long an installation may take: until a minute after the last test may begin, see conftest.py."""
    end = os.environ.get("PALM_TESTS_END")
    if not end:
        return _INSTALL_LIMIT_S
    return min(_INSTALL_LIMIT_S, max(1.0, float(end) + 60 - time.time()))


def _environments() -> Path:
    given = os.environ.get("PALM_TEST_ENVIRONMENTS")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "palm" / "tests"


def _expanded(requirement: str) -> Iterator[str]:
    """Yield a requirement, or for extras of this project what it requires with them."""
    found = re.fullmatch(r"palm-nlu\[([\w,-]+)\]", requirement)
    if found is None:
        yield requirement
        return
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    yield from project["dependencies"]
    for extra in found[1].split(","):
        for inner in project["optional-dependencies"][extra]:
            yield from _expanded(inner)


def _digest(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()

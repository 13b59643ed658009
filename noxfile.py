"""Run `make test` on every Python that PALM is for: `make test-pythons`, or `nox -s "tests(3.12)" -- types`.

Each session has an environment of its own in build/, which make creates with that interpreter. A Python that this machine
lacks is skipped, and nox says so.
"""

import shutil
import subprocess

import nox

nox.options.default_venv_backend = "none"


def find_python(version: str) -> str | None:
    """Return the path of an interpreter, None where this machine has none."""
    path = shutil.which(f"python{version}")
    # A shim of pyenv is there although the version may not be.
    if path and subprocess.run([path, "--version"], capture_output=True).returncode == 0:
        return path
    return None


@nox.session
@nox.parametrize("version", ["3.11", "3.12", "3.13"], ids=["3.11", "3.12", "3.13"])
def tests(session: nox.Session, version: str) -> None:
    """Run lint, types and the quick tests on one Python.

    Args:
        session: the session. What follows `--` replaces the target `test` of make.
        version: the Python.
    """
    interpreter = find_python(version)
    if interpreter is None:
        session.skip(f"Python {version} is not installed")
    targets = session.posargs or ["test"]
    session.run("make", f"PYTHON={interpreter}", f"VENV=build/venv-{version}", *targets, external=True)

"""`make api-check` finds what breaks the public Python API, and nothing else."""

import os
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / ".ci" / "api_check.py"

BEFORE = {
    "pkg/__init__.py": """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from pkg.inner.parts import Model, answer
__all__ = ["Model", "answer", "LIMIT"]
LIMIT = 1
""",
    "pkg/inner/__init__.py": "",
    "pkg/inner/parts.py": """
class Model:
    def parse(self, text, *, language="en"): ...
    def close(self): ...
    def _private(self): ...
def answer(text, context=()): ...
def internal(): ...
""",
    "pkg/errors.py": "class PalmError(Exception): ...\nclass DataError(PalmError): ...\n",
}
REMOVED = [
    "pkg.LIMIT: removed",
    "pkg.errors.DataError: removed",
    "pkg.inner.parts.Model.close: Public object was removed (close)",
    "pkg.inner.parts.Model.parse: Parameter was removed (language)",
    "pkg.inner.parts.answer: Parameter is now required (context)",
]


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.com")
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with a package and one commit."""
    for name, text in BEFORE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "--all")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    return tmp_path


@pytest.fixture(scope="module")
def griffe_python(environments: ModuleType) -> Path:
    """The Python of an environment with the griffe of requirements/tools.txt."""
    lines = (ROOT / "requirements" / "tools.txt").read_text(encoding="utf-8").splitlines()
    [pinned] = [line for line in lines if line.startswith("griffe==")]
    return environments.make_environment("griffe", [pinned], constrained=False)


def check(python: Path, root: Path, *arguments: str) -> tuple[int, list[str]]:
    """Return the exit code and the lines of a check."""
    command = [python, SCRIPT, *arguments, "--root", root, "--public", "pkg", "pkg.errors"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=300, env=environment)
    return done.returncode, [*done.stdout.splitlines(), *done.stderr.splitlines()]


@pytest.mark.slow
def test_breaks_of_public_names_are_told(project: Path, griffe_python: Path) -> None:
    (project / "pkg/__init__.py").write_text(
        BEFORE["pkg/__init__.py"].replace(', "LIMIT"', "").replace("LIMIT = 1", "")
    )
    parts = BEFORE["pkg/inner/parts.py"].replace(', *, language="en"', "").replace("close", "stop")
    parts = parts.replace("context=()", "context").replace("_private", "_other").replace("internal", "inner")
    (project / "pkg/inner/parts.py").write_text(parts)
    (project / "pkg/errors.py").write_text("class PalmError(Exception): ...\n")
    code, lines = check(griffe_python, project, "HEAD")
    assert sorted(lines[:-1]) == REMOVED
    assert lines[-1] == "5 breaks of the public API since HEAD"
    assert code == 1


@pytest.mark.slow
def test_additions_and_moves_are_no_breaks(project: Path, griffe_python: Path) -> None:
    git(project, "tag", "v1")
    (project / "pkg/inner/parts.py").rename(project / "pkg/inner/moved.py")
    package = BEFORE["pkg/__init__.py"].replace("inner.parts", "inner.moved").replace('"LIMIT"]', '"LIMIT", "NEW"]')
    (project / "pkg/__init__.py").write_text(package + "NEW = 2\n")
    assert check(griffe_python, project) == (0, ["0 breaks of the public API since v1"])


@pytest.mark.slow
def test_without_a_tag_a_commit_must_be_named(project: Path, griffe_python: Path) -> None:
    assert check(griffe_python, project) == (1, ["There is no tag yet. Name a commit: make api-check REF=COMMIT."])


EXPORTED = """
import json, runpy, sys, griffe
check = runpy.run_path(sys.argv[1])
names = {}
for name in check["PUBLIC"]:
    package, _, inner = name.partition(".")
    loaded = griffe.load(package, search_paths=[sys.argv[2]], allow_inspection=False, resolve_aliases=True)
    module = loaded[inner] if inner else loaded
    names[name] = [item for item in check["exported"](module) if check["target"](module.members[item])]
print(json.dumps(names))
"""
"""Prints the names that each public module of a checkout exports, as far as their definitions are found."""


@pytest.mark.slow
def test_public_modules_of_this_checkout_are_read(griffe_python: Path, environments: ModuleType) -> None:
    names = environments.run_python(griffe_python, EXPORTED, SCRIPT, ROOT)
    assert all(names.values()), names
    assert "Model" in names["palm_serve"]
    assert {"Client", "AsyncClient"} <= set(names["palm_serve.client"])
    assert {"Trainer", "MultiHeadTrainer"} <= set(names["palm_trainer"])

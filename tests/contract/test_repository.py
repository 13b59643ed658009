"""What holds for the whole repository: nothing private or generated slips in, and its documents tell the truth."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

MAX_FILE_BYTES = 1_000_000
MAX_FUNCTION_LINES = 60
MAX_FILE_LINES = 400

# Path, or path:function, -> why it is longer all the same.
LONGER: dict[str, str] = {}

# Spelt so that this file does not find itself.
UNWANTED = {
    "a path of one machine": re.compile(r"(?<![\w.$}])/" + r"(?:work|root|tmp|farm|opt/pypi|opt/wheels)/"),
    "a registry's address": re.compile(
        r"index" + r"-url|find" + r"-links|pypi\." + r"org|pythonhosted\." + r"org|npmjs\." + r"org"
    ),
    "a merge marker": re.compile(r"^(?:<{7}|>{7}|\|{7})(?: |$)", re.MULTILINE),
}


@cache
def _tracked() -> list[Path]:
    """The files in git that also lie in the working tree."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def _python_files(*folders: str) -> list[Path]:
    """The hand-written Python files below the folders."""
    files = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return [path for path in files if path.relative_to(ROOT).parts[1] not in {"v1", "oip"}]


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def test_no_large_file() -> None:
    large = [
        f"{_name(path)}: {path.stat().st_size:,} bytes" for path in _tracked() if path.stat().st_size > MAX_FILE_BYTES
    ]
    assert not large, large


@pytest.mark.parametrize("what", UNWANTED)
def test_no_unwanted_text(what: str) -> None:
    found = []
    for path in _tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture, or a test's bad input
        found += [
            f"{_name(path)}:{text.count(chr(10), 0, match.start()) + 1}" for match in UNWANTED[what].finditer(text)
        ]
    assert not found, f"{what} in {', '.join(found)}"


def test_files_and_functions_are_short() -> None:
    """Split it, or list it in LONGER with the reason."""
    too_long = set()
    for path in _python_files("palm_serve", "palm_trainer"):
        if len(path.read_text(encoding="utf-8").splitlines()) > MAX_FILE_LINES:
            too_long.add(_name(path))
        for node in _functions(path):
            if node.end_lineno is not None and node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES:
                too_long.add(f"{_name(path)}:{node.name}")
    assert too_long == set(LONGER)


def _checks(node: ast.AST) -> bool:
    return re.search(r"\bassert|raises|warns|check", ast.unparse(node)) is not None


def test_every_test_checks_something() -> None:
    """A test without an assertion, `raises`, `warns` or a helper that has one passes whatever the code does."""
    empty = []
    for path in _python_files("tests"):
        functions = _functions(path)
        helpers = {node.name for node in functions if _checks(node) and not node.name.startswith("test")}
        for node in functions:
            called = {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
            if node.name.startswith("test") and not _checks(node) and not called & helpers:
                empty.append(f"{_name(path)}:{node.lineno} {node.name}")
    assert not empty, empty


def test_changelog_tells_of_this_version() -> None:
    assert f"## [{PROJECT['version']}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_dependency_is_pinned_within_its_range() -> None:
    pinned = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, version = line.split("==")
            pinned[name.lower().replace("_", "-")] = version
    declared = [
        *PROJECT["dependencies"],
        *(line for extra in PROJECT["optional-dependencies"].values() for line in extra),
    ]
    for requirement in map(Requirement, declared):
        if requirement.name != PROJECT["name"]:
            assert pinned.get(requirement.name) in requirement.specifier, requirement


def test_slow_tests_without_time_are_skipped_and_listed() -> None:
    command = [sys.executable, "-m", "pytest", "-m", "slow", "-rs", "-p", "no:cacheprovider", "-n", "0"]
    done = subprocess.run(
        [*command, "tests/palm_serve/batching/test_simulation.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "PALM_TESTS_END": "1"},
    )
    assert done.returncode == 0, done.stdout
    assert "no time is left: PALM_TESTS_END has passed" in done.stdout

"""What the targets of the Makefile install: a demo needs less than the tests."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

DEMO = "train,serve-base,http"
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def planned(target: str, environment: Path) -> str:
    """Return the commands that a target would run."""
    command = ["make", "--dry-run", f"VENV={environment}", target]
    variables = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL")}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=variables).stdout


@pytest.mark.parametrize(
    ("target", "extras"),
    [
        ("demo", DEMO),
        ("demo-serve", DEMO),
        ("demo-zh", DEMO),
        ("types", "train,serve,dev"),
        ("docs", "train,serve,dev,docs"),
    ],
)
def test_a_target_installs_what_it_needs(target: str, extras: str, tmp_path: Path) -> None:
    assert f"'.[{extras}]'" in planned(target, tmp_path / "venv")


def test_a_demo_after_the_tests_installs_nothing(tmp_path: Path) -> None:
    assert "touch" in planned("types", tmp_path)
    for stamp in (".installed", ".installed-demo"):
        (tmp_path / stamp).touch()
    assert "pip install" not in planned("demo", tmp_path)


def test_the_site_after_the_site_installs_nothing(tmp_path: Path) -> None:
    assert "-m sphinx" in planned("docs", tmp_path)
    (tmp_path / ".installed-docs").touch()
    assert "pip install" not in planned("docs", tmp_path)


def test_the_tests_after_a_demo_install_the_rest(tmp_path: Path) -> None:
    (tmp_path / ".installed-demo").touch()
    assert "pip install" not in planned("demo", tmp_path)
    assert "'.[train,serve,dev]'" in planned("types", tmp_path)

"""Importing a package sets no environment variable. Commands set what torch reads, before they import it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

COMPARE = """
import importlib, os, sys
before = dict(os.environ)
importlib.import_module(sys.argv[1])
changed = {key: value for key, value in os.environ.items() if before.get(key) != value}
print(changed, sorted(before.keys() - os.environ.keys()))
"""

# Prints the variable as it stands when torch is first imported: later is too late.
WATCH = """
import os, sys

def watch(event, arguments):
    if event == "import" and arguments[0] == "torch":
        print("GOMP_SPINCOUNT =", os.environ.get("GOMP_SPINCOUNT"), flush=True)
        os._exit(0)  # torch itself takes seconds to load, and nothing later matters here

sys.addaudithook(watch)
from palm_trainer.cli.train import main
main()
"""


def run_python(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    environment = {key: value for key, value in os.environ.items() if key != "GOMP_SPINCOUNT"}
    environment |= {"PYTHONPATH": str(ROOT), **variables}
    return subprocess.run([sys.executable, "-c", *arguments], capture_output=True, text=True, env=environment)


@pytest.mark.parametrize(
    "module",
    [
        "palm_trainer",
        "palm_trainer.config.loader",
        "palm_trainer.cli.train",
        "palm_trainer.cli.export",
        "palm_serve",
        "palm_serve.client",
        "palm_serve.cli",
    ],
)
def test_import_leaves_the_environment_unchanged(module: str) -> None:
    result = run_python(COMPARE, module)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "{} []"


def test_command_limits_spinning_before_torch_is_imported(tmp_path: Path) -> None:
    result = run_python(WATCH, "run", str(tmp_path / "nowhere.toml"))
    assert result.stdout.splitlines() == ["GOMP_SPINCOUNT = 10000"], result.stderr


def test_spin_count_of_the_user_is_kept(tmp_path: Path) -> None:
    result = run_python(WATCH, "run", str(tmp_path / "nowhere.toml"), GOMP_SPINCOUNT="7")
    assert result.stdout.splitlines() == ["GOMP_SPINCOUNT = 7"], result.stderr

"""The benchmark scripts import each other as scripts do: from their own folder."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _script_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    for name in ("common", "splits", "tasks", "tasks_table"):
        monkeypatch.delitem(sys.modules, name, raising=False)

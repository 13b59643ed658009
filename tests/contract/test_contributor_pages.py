"""The pages for contributors name folders and files that exist, and leave no package out."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ("CONTRIBUTING.md", "SECURITY.md", "docs/explanation/architecture.md")


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_named_paths_exist(page: str) -> None:
    paths = re.findall(
        r"`((?:palm_trainer|palm_serve|tests|benchmarks|docs|examples|protos|\.ci)/[\w./]*)`", read(page)
    )
    missing = [path for path in paths if not re.search("NAME|KIND", path) and not (ROOT / path).exists()]
    assert paths or page == "SECURITY.md"
    assert not missing


@pytest.mark.parametrize("package", ["palm_trainer", "palm_serve"])
def test_map_names_every_module(package: str) -> None:
    entries = {
        path.name for path in (ROOT / package).iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    page = read("CONTRIBUTING.md")
    assert "errors.py" in entries
    assert {name for name in entries - {"__init__.py"} if f"`{package}/{name}" not in page} == set()

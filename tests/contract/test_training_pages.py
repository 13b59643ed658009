"""Pages on training, export and how they work: their configurations and rows are read, and they name the layers as they are.

A block of TOML whose data sets have a `format` and whose tasks have a `kind` is whole. Any other block is a part: its
keys are added to the whole configuration above it, or to `examples/demo.toml` where there is none, as
docs/how-to/train/index.md tells the reader.
"""

import importlib.util
import re
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from palm_trainer.config.loader import load_config
from palm_trainer.data.formats import FORMATS
from palm_trainer.data.formats.text_files import Defects, FormatOptions

ROOT = Path(__file__).parents[2]
FOLDERS = ("docs/how-to/train", "docs/how-to/export", "docs/explanation")
Table = dict[str, Any]


def pages() -> list[str]:
    """Return the names of the pages."""
    return sorted(path.relative_to(ROOT).as_posix() for folder in FOLDERS for path in (ROOT / folder).glob("*.md"))


def pages_with(language: str) -> list[str]:
    """Return the names of the pages that have blocks of a language."""
    return [page for page in pages() if blocks(page, language)]


def blocks(page: str, language: str) -> list[str]:
    """Return the contents of the blocks of a language."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def is_whole(table: Table) -> bool:
    """Return True for a block with data sets and tasks that lack nothing."""
    data = table.get("data", {}).values()
    tasks = table.get("tasks", {}).values()
    has_all = all("format" in section for section in data) and all("kind" in section for section in tasks)
    return bool(data) and bool(tasks) and has_all


def add(table: Table, part: Mapping[str, Any]) -> Table:
    """Return a table with the keys of a part, in sections of any depth."""
    merged = dict(table)
    for key, value in part.items():
        below = merged.get(key)
        merged[key] = add(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def configurations(page: str) -> Iterator[Table]:
    """Yield the configuration that each block of a page stands for."""
    whole = tomllib.loads((ROOT / "examples/demo.toml").read_text(encoding="utf-8"))
    for block in blocks(page, "toml"):
        table = tomllib.loads(block)
        if is_whole(table):
            whole = table
        yield add(whole, table)


@pytest.mark.parametrize("page", pages_with("toml"))
def test_configurations_are_valid(page, tmp_path):
    for number, table in enumerate(configurations(page)):
        path = tmp_path / f"{number}.toml"
        path.write_text(tomli_w.dumps(table), encoding="utf-8")
        config = load_config(path)
        assert list(config.tasks) == list(table["tasks"])


@pytest.mark.parametrize("page", pages_with("toml"))
def test_sample_files_of_configurations_exist(page):
    named = set(re.findall(r'"(examples/[^"]+)"', "\n".join(blocks(page, "toml"))))
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", pages_with("json"))
def test_rows_are_read_without_a_defect(page, tmp_path):
    for number, row in enumerate(blocks(page, "json")):
        path = tmp_path / f"{number}.jsonl"
        path.write_text(row, encoding="utf-8")
        defects = Defects()
        examples = list(FORMATS["jsonl"](path, FormatOptions(), defects))
        assert (len(examples), list(defects)) == (1, [])


@pytest.mark.parametrize("page", pages())
def test_pages_begin_with_what_the_reader_gains(page):
    title, blank, first, second, *_ = (ROOT / page).read_text(encoding="utf-8").split("\n")
    assert title.startswith("# ")
    assert blank == ""
    assert re.search(r"\b[Aa]fter (?:this|these|them)\b.* you (?:can|know)\b", f"{first} {second}")


@cache
def sources() -> str:
    """Return the code that raises the messages of the pages, each string on one line."""
    code = []
    for folder in ("palm_trainer", "palm_serve/bundle", "palm_serve/proof", "palm_serve/cli"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            code.append(re.sub(r'"\s*\n\s*f?"', "", path.read_text(encoding="utf-8")))
    return "\n".join(code).replace('\\"', '"')


def quoted_messages(page: str) -> Iterator[str]:
    """Yield the messages in the first column of "What goes wrong": code of three words or more."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for section in re.findall(r"^## What goes wrong\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL):
        for cell in re.findall(r"^\| (.*?) \|", section, re.MULTILINE):
            yield from (quote for quote in re.findall(r"`([^`]+)`", cell) if len(quote.split()) > 2)


def fixed_parts(message: str) -> list[str]:
    """Return the parts of a message between what differs: `...`, names in quotes, numbers, and single capitals."""
    parts = re.split(r"\.\.\.|'[^']*'|\b(?:[A-Z]|\d+)\b", message)
    return [part.strip(" .,:") for part in parts if len(part.strip(" .,:")) > 5]


@pytest.mark.parametrize("page", pages())
def test_quoted_messages_are_those_of_the_code(page):
    for message in quoted_messages(page):
        assert [part for part in fixed_parts(message) if part not in sources()] == [], message


@pytest.mark.parametrize("page", pages())
def test_named_paths_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    named = re.findall(r"`((?:palm_trainer|palm_serve|tests|benchmarks|examples)/[\w./]+)`", text)
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_architecture_page_names_the_layers():
    path = Path(__file__).with_name("test_import_boundaries.py")
    spec = importlib.util.spec_from_file_location("import_boundaries", path)
    assert spec is not None
    assert spec.loader is not None
    boundaries = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(boundaries)
    text = (ROOT / "docs/explanation/architecture.md").read_text(encoding="utf-8")
    [listed] = re.findall(r"<!-- layers -->\n```text\n(.*?)```\n<!-- /layers -->", text, re.DOTALL)
    lines = dict(re.findall(r"^(\w+): +(.*?)(?=^\w+:|\Z)", listed, re.MULTILINE | re.DOTALL))
    for package, layers in (("palm_trainer", boundaries.TRAINER_LAYERS), ("palm_serve", boundaries.SERVE_LAYERS)):
        assert [set(layer.strip(" {}\n").split()) for layer in lines[package].split("<")] == layers
    across = re.search(r"palm_serve\.\{(.*?)\}", lines["across"])
    assert across is not None
    assert set(across[1].split()) == boundaries.ACROSS

"""Inputs of batches, and runs of `palm-serve batch` in processes of their own."""

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parents[3]
WORDS = "please show me flights from boston to new york on monday play a song adele hello weather awful 北京 next week"


def make_texts(count: int) -> list[str]:
    """Make texts of 1 to 20 words."""
    words = WORDS.split()
    chance = random.Random(count)
    return [" ".join(chance.choices(words, k=chance.randint(1, 20))) for _ in range(count)]


def write_parquet(path: Path, rows: int, group_rows: int) -> Path:
    """Write a file with the columns `id` and `text`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"id": range(rows), "text": make_texts(rows)})
    pq.write_table(table, path, row_group_size=group_rows)
    return path


@pytest.fixture
def make_parquet(tmp_path: Path) -> Callable[..., Path]:
    """`make_parquet(rows, group_rows, name=...)`: a file with the columns `id` and `text`."""

    def make(rows: int, group_rows: int, name: str = "in.parquet") -> Path:
        return write_parquet(tmp_path / name, rows, group_rows)

    return make


@pytest.fixture(scope="session")
def long_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20,000 rows in 160 row groups, for runs that are killed in the midst of them."""
    return write_parquet(tmp_path_factory.mktemp("long") / "in.parquet", 20_000, 125)


@pytest.fixture(scope="session")
def undisturbed(long_source: Path, tiny_bundle: Path) -> Path:
    """The answers to `long_source` of a run that nothing disturbed."""
    output = long_source.parent / "undisturbed"
    arguments = command(long_source, output, "--bundle", tiny_bundle)
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment())
    assert done.stdout == "palm-serve: 20,000 rows in 160 parts, none with an error\n", done.stderr
    return output


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "palm_serve.cli", "batch", *map(str, arguments)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.fixture
def start_batch(start_process: Callable[..., Any]) -> Callable[..., Any]:
    """`start_batch(INPUT, OUTPUT, *options)`: a process of `palm-serve batch`."""
    return lambda *arguments: start_process(command(*arguments), env=environment())

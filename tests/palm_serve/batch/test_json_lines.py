"""Answers as one file of JSON Lines."""

import json
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from palm_serve.batch.batch_run import BatchOptions
from palm_serve.batch.json_lines import run_batch_to
from palm_serve.errors import BatchError


@pytest.fixture
def run(tiny_bundle):
    """`run(INPUT, OUTPUT, **options)`: answer the rows."""
    return lambda source, output, **options: run_batch_to(
        str(tiny_bundle), [source], output, BatchOptions(), {"provider": "CPU"}, **options
    )


def read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_rows_are_those_of_the_parts_in_order(run, make_parquet, tmp_path):
    source = make_parquet(250, 100)
    output = tmp_path / "out.jsonl"
    assert run(source, output).rows == 250
    parts = sorted((tmp_path / "out.jsonl.parts").glob("*.parquet"))
    assert len(parts) == 3
    assert read(output) == [row for part in parts for row in pq.ParquetFile(part).read().to_pylist()]


def test_file_that_is_missing_is_written_again_from_the_parts(run, make_parquet, tmp_path):
    source, output = make_parquet(20, 10), tmp_path / "out.jsonl"
    run(source, output)
    content = output.read_bytes()
    output.unlink()
    assert run(source, output).earlier_parts == 2
    assert output.read_bytes() == content


def test_file_of_others_is_kept(run, make_parquet, tmp_path):
    output = tmp_path / "out.jsonl"
    output.write_text("mine")
    with pytest.raises(BatchError, match="must be a new file, got one that exists"):
        run(make_parquet(10, 10), output)
    assert output.read_text() == "mine"


def test_folder_of_that_name_stays_one(run, make_parquet, tmp_path):
    output = tmp_path / "out.jsonl"
    output.mkdir()
    run(make_parquet(10, 10), output)
    assert (output / "in.parquet-00000.parquet").exists()


def test_values_that_json_lacks(run, tmp_path):
    source = tmp_path / "in.parquet"
    columns = {"text": ["hello", None], "day": [date(2026, 11, 30), None], "score": [float("nan"), float("inf")]}
    pq.write_table(pa.table(columns), source)
    run(source, tmp_path / "out.jsonl")
    first, second = read(tmp_path / "out.jsonl")
    assert (first["day"], first["score"], first["intent"]) == ("2026-11-30", None, "greeting")
    assert (second["score"], second["intent"]) == (None, None)
    assert str(second["error"]).startswith("text must not be null")

"""Answers as one file of JSON Lines: the parts are answered as Parquet beside it, and written into it when all are there."""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from palm_serve.batch.batch_run import BatchOptions, run_batch
from palm_serve.batch.files import exists, open_file, shown, write_whole, written_files
from palm_serve.batch.output_folder import parts_of_success
from palm_serve.batch.progress import Progress
from palm_serve.errors import BatchError
from palm_serve.model import OpenOptions

_SUFFIX = ".jsonl"
_PARTS = ".parts"


def run_batch_to(
    bundle: str, inputs: Sequence[Path], output: Path, options: BatchOptions, open_options: OpenOptions, **how: Any
) -> Progress:
    """Answer the rows of files into a folder of Parquet, or a file that is called `NAME.jsonl`.

    Args:
        bundle: directory of the bundle.
        inputs: files and folders.
        output: folder or file of the answers.
        options: what is asked of which columns.
        open_options: options of the engine.
        **how: those of `run_batch`.

    Raises:
        BatchError: as `run_batch`; or the output is a file that no run has written.
    """
    folder = _parts_folder(output)
    progress = run_batch(bundle, inputs, folder, options, open_options, **how)
    if folder != output:
        _write_lines(folder, output)
    return progress


def _parts_folder(output: Path) -> Path:
    """Return the folder of the parts: the output, or where it is called `NAME.jsonl` the folder `NAME.jsonl.parts`."""
    if output.suffix != _SUFFIX or output.is_dir():
        return output
    folder = output.with_name(output.name + _PARTS)
    if exists(output) and not (folder.is_dir() or written_files(folder)):
        raise BatchError(
            f"the output {shown(output)} must be a new file, got one that exists. Choose another name, or remove it."
        )
    return folder


def _write_lines(folder: Path, output: Path) -> None:
    """Write the rows of all parts into a file, in the order of the input."""
    write_whole(output, _lines(folder))


def _lines(folder: Path) -> Iterator[bytes]:
    for name in parts_of_success(folder):
        with open_file(folder / name) as stream, pq.ParquetFile(stream) as content:
            rows = content.read().to_pylist()
        for row in rows:
            yield _line(row)


def _line(row: dict[str, Any]) -> bytes:
    # JSON has no dates and bytes: they are strings, as Python shows them.
    return (json.dumps(_plain(row), ensure_ascii=False, default=str) + "\n").encode(errors="replace")


def _plain(value: Any) -> Any:
    """Return a value without numbers that JSON lacks: infinity and NaN are null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value

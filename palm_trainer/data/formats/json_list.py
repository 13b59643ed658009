"""A JSON array of objects, a row each. Keys and values are those of jsonl."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from palm_trainer.data.example import Example
from palm_trainer.data.formats.json_values import load_json
from palm_trainer.data.formats.jsonl import objects_examples
from palm_trainer.data.formats.text_files import Defects, FormatOptions
from palm_trainer.errors import DataError


def parse(path: Path, options: FormatOptions, defects: Defects) -> Iterator[Example]:
    """Yield the examples of a file, one for each element of the array.

    Args:
        path: file to read.
        options: format options.
        defects: tally of repaired defects.

    Raises:
        DataError: the file is not an array of objects, or an object lacks a text or one of
            `columns`.
    """
    rows = load_json(path, defects)
    if not isinstance(rows, list):
        raise DataError(f"{path}: a JSON {type(rows).__name__}, not an array of objects; set the right `format`")
    yield from objects_examples(_objects(path, rows), path, options, defects)


def _objects(path: Path, rows: list[Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield place and object of each element."""
    for number, row in enumerate(rows, 1):
        source = f"{path}: element {number}"
        if not isinstance(row, dict):
            raise DataError(f"{source}: {row!r} is not an object; write {{'text': ..., 'label': ...}}")
        yield source, row

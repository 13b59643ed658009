"""A JSON array of objects, a row each.

The keys are columns, named as in `palm_trainer.data.formats.columns`.

`columns` names the keys to read. Without it, all keys except `id` are read. Numbers become class
names. Lists hold classes or spans, as in jsonl.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from palm_trainer.config.mappings import absent
from palm_trainer.data.example import Example, FieldValue
from palm_trainer.data.formats.columns import PAIR_COLUMNS, TEXT_COLUMNS, count_texts, row_example
from palm_trainer.data.formats.json_values import load_json
from palm_trainer.data.formats.jsonl import ANSWER, read_field, read_words
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
    for number, row in enumerate(rows, 1):
        source = f"{path}: element {number}"
        if not isinstance(row, dict):
            raise DataError(f"{source}: {row!r} is not an object; write {{'text': ..., 'label': ...}}")
        columns = options.columns or tuple(key for key in row if key != "id")
        _check_columns(columns, row, source)
        yield _example(columns, row, source, options.label_separator, defects)


def _example(
    columns: tuple[str, ...], row: dict[str, Any], source: str, separator: str | None, defects: Defects
) -> Example:
    """Convert an object to an example: lists as in jsonl, anything else as the cells of a table."""
    plain: dict[str, str] = {}
    """Text of each column that holds no list or object."""
    for key in columns:
        if not isinstance(row[key], list | dict):
            plain[key] = str(row[key]) if isinstance(row[key], str | int | float) else ""
    example = row_example(tuple(plain), list(plain.values()), source, separator, defects)
    fields: dict[str, FieldValue] = {}
    words = None
    for key in columns:
        place = f'{source}: "{key}"'
        if key in TEXT_COLUMNS or key in PAIR_COLUMNS:
            if key not in plain:
                raise DataError(f"{place} must be a string, got {type(row[key]).__name__}; correct it")
        elif key in plain:
            if key in example.fields:
                fields[key] = example.fields[key]
        elif key == "words":
            words = read_words(row[key], len(example.text), source)
        else:
            is_answer = key == ANSWER and example.pair is not None
            text = example.pair if is_answer and example.pair is not None else example.text
            fields[key] = read_field(row[key], len(text), place, defects, is_answer=is_answer)
    return replace(example, fields=fields, words=words)


def _check_columns(columns: tuple[str, ...], row: dict[str, Any], source: str) -> None:
    """Check that a row has all columns, one text and at most one pair."""
    missing = absent(columns, row)
    if missing:
        raise DataError(f"{source}: no key '{missing[0]}' among {', '.join(row)}; add it or change `columns`")
    text_count, pair_count = count_texts(columns)
    if text_count != 1 or pair_count > 1:
        raise DataError(f"{source}: keys {', '.join(columns)} do not hold one text of {', '.join(TEXT_COLUMNS)}")

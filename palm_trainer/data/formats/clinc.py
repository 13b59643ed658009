"""CLINC150's JSON: `{split: [[text, intent], ...], ...}`, all splits in one file. Field: `intent`.

A path names the split after `#`: `data_full.json#oos_train`.
"""

from collections.abc import Iterator
from pathlib import Path

from palm_trainer.data.example import Example
from palm_trainer.data.formats.text_files import Defects, FormatOptions, load_json
from palm_trainer.errors import DataError


def splits(path: Path) -> list[str]:
    """Names of the splits of a file. Raises DataError when it is none."""
    held = load_json(path)
    if not is_clinc(held):
        raise DataError(f"{path}: not CLINC's structure, {{split: [[text, intent], ...]}}; set the right `format`")
    return list(held)


def is_clinc(value: object) -> bool:
    """Whether a JSON value is an object of lists of pairs of strings, going by the first of each."""
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(rows, list) and rows and _is_pair(rows[0]) for rows in value.values())
    )


def _is_pair(row: object) -> bool:
    return isinstance(row, list) and len(row) == 2 and all(isinstance(item, str) and item.strip() for item in row)


def parse(path: Path, options: FormatOptions, defects: Defects) -> Iterator[Example]:
    """Examples of one split.

    Raises:
        DataError: no or an unknown split in the path, or rows that are not pairs of strings.
    """
    name, _, split = path.name.partition("#")
    splits = load_json(path.with_name(name), defects)
    if not isinstance(splits, dict) or split not in splits:
        held = ", ".join(splits) if isinstance(splits, dict) else f"a {type(splits).__name__}"
        raise DataError(f"{path}: no split '{split}' (the file holds: {held}); write the path as {name}#SPLIT")
    for number, row in enumerate(splits[split], 1):
        where = f"{path}: row {number}"
        if not _is_pair(row):
            raise DataError(f"{where}: {row!r} is not [text, intent]; correct it")
        yield Example(row[0], {"intent": row[1]}, source=where)

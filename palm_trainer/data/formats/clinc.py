"""CLINC150's JSON: `{split: [[text, intent], ...], ...}`, all splits in one file. Field: `intent`.

A path names the split after `#`: `data_full.json#oos_train`.
"""

from collections.abc import Iterator
from pathlib import Path

from palm_trainer.data.example import Example
from palm_trainer.data.formats.json_values import load_json
from palm_trainer.data.formats.text_files import Defects, FormatOptions
from palm_trainer.errors import DataError


def splits(path: Path) -> list[str]:
    """List the splits of a file.

    Raises:
        DataError: the file has another structure.
    """
    document = load_json(path)
    if not is_clinc(document):
        raise DataError(f"{path}: not CLINC's structure, {{split: [[text, intent], ...]}}; set the right `format`")
    return list(document)


def is_clinc(value: object) -> bool:
    """Return True for a JSON object of lists of string pairs.

    Only the first pair of each list is checked.
    """
    if not isinstance(value, dict) or not value:
        return False
    return all(isinstance(rows, list) and rows and _is_pair(rows[0]) for rows in value.values())


def _is_pair(row: object) -> bool:
    return isinstance(row, list) and len(row) == 2 and all(isinstance(item, str) and item.strip() for item in row)


def parse(path: Path, options: FormatOptions, defects: Defects) -> Iterator[Example]:
    """Yield the examples of one split.

    Args:
        path: file, with `#SPLIT` after its name.
        options: not used.
        defects: tally of repaired defects.

    Raises:
        DataError: the path names no or an unknown split, or a row is not a pair of strings.
    """
    name, _, split = path.name.partition("#")
    document = load_json(path.with_name(name), defects)
    if not isinstance(document, dict) or split not in document:
        content = ", ".join(document) if isinstance(document, dict) else f"a {type(document).__name__}"
        raise DataError(f"{path}: no split '{split}' (the file holds: {content}); write the path as {name}#SPLIT")
    rows = document[split]
    if not isinstance(rows, list):
        raise DataError(
            f"{path}: split '{split}' must be a list of [text, intent], got {type(rows).__name__}; correct it"
        )
    for number, row in enumerate(rows, 1):
        source = f"{path}: row {number}"
        if not _is_pair(row):
            raise DataError(f"{source}: {row!r} is not [text, intent]; correct it")
        yield Example(row[0], {"intent": row[1]}, source=source)

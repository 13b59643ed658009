"""CLINC150's JSON: `{split: [[text, intent], ...], ...}`, all splits in one file. Field: `intent`.

A path names the split after `#`: `data_full.json#oos_train`.
"""

from collections.abc import Iterator
from pathlib import Path

from palm_trainer.errors import DataError
from palm_trainer.example import Example
from palm_trainer.reader.formats.source import Defects, FormatOptions, load_json


def parse(path: Path, options: FormatOptions, defects: Defects) -> Iterator[Example]:
    """Examples of one split.

    Raises:
        DataError: no or an unknown split in the path, or rows that are not pairs of strings.
    """
    name, _, split = path.name.partition("#")
    splits = load_json(path.with_name(name))
    if not isinstance(splits, dict) or split not in splits:
        held = ", ".join(splits) if isinstance(splits, dict) else f"a {type(splits).__name__}"
        raise DataError(f"{path}: no split '{split}' (the file holds: {held}); write the path as {name}#SPLIT")
    for number, row in enumerate(splits[split], 1):
        where = f"{path}: row {number}"
        pair = isinstance(row, list) and len(row) == 2 and all(isinstance(item, str) and item.strip() for item in row)
        if not pair:
            raise DataError(f"{where}: {row!r} is not [text, intent]; correct it")
        yield Example(row[0], {"intent": row[1]}, source=where)

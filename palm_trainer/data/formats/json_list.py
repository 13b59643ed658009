"""A JSON array of objects, a row each: the keys are columns, named as in `palm_trainer.data.formats.columns`.

`columns` names the keys that are read; without it all of them but `id` are. Numbers become class names.
"""

from collections.abc import Iterator
from pathlib import Path

from palm_trainer.data.example import Example
from palm_trainer.data.formats.columns import PAIR_COLUMNS, TEXT_COLUMNS, row_example
from palm_trainer.data.formats.text_files import Defects, FormatOptions, load_json
from palm_trainer.errors import DataError


def parse(path: Path, options: FormatOptions, defects: Defects) -> Iterator[Example]:
    """Examples of the file, an array element each.

    Raises:
        DataError: not an array of objects, an object without one of `columns` or without a text.
    """
    rows = load_json(path, defects)
    if not isinstance(rows, list):
        raise DataError(f"{path}: a JSON {type(rows).__name__}, not an array of objects; set the right `format`")
    for number, row in enumerate(rows, 1):
        where = f"{path}: element {number}"
        if not isinstance(row, dict):
            raise DataError(f"{where}: {row!r} is not an object; write {{'text': ..., 'label': ...}}")
        columns = options.columns or tuple(key for key in row if key != "id")
        missing = [key for key in columns if key not in row]
        if missing:
            raise DataError(f"{where}: no key '{missing[0]}' among {', '.join(row)}; add it or change `columns`")
        if sum(key in TEXT_COLUMNS for key in columns) != 1 or sum(key in PAIR_COLUMNS for key in columns) > 1:
            raise DataError(f"{where}: keys {', '.join(columns)} do not hold one text of {', '.join(TEXT_COLUMNS)}")
        values = [str(row[key]) if isinstance(row[key], str | int | float) else "" for key in columns]
        yield row_example(columns, values, where, options.label_separator, defects)

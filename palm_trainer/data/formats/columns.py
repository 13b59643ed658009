"""Rows of columns -> examples; shared by the tab-separated and comma-separated formats.

Column names: `text`, `text_a` or `sentence` is the text; `text_b` or `text_pair` its pair; `_` is skipped; any other is
a class field.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from palm_trainer.data.example import Example, FieldValue
from palm_trainer.data.formats.text_files import Defects, FormatOptions, class_value
from palm_trainer.errors import DataError

TEXT_COLUMNS = ("text", "text_a", "sentence")
PAIR_COLUMNS = ("text_b", "text_pair")
SKIPPED = "_"
NO_CLASS = "empty class (read as unlabelled)"


def examples(
    rows: Iterable[tuple[int, list[str]]], path: Path, options: FormatOptions, defects: Defects
) -> Iterator[Example]:
    """Examples of (line number, fields) rows.

    Raises:
        DataError: for a header without a text, doubled columns, a wrong number of fields, an empty text.
    """
    rows = iter(rows)
    columns = options.columns
    if options.header or (options.header is None and not columns):
        _, header = next(rows)
        columns = columns or tuple(name.strip() for name in header)
    _check_columns(columns, path, bool(options.columns))
    empty = True
    for number, fields in rows:
        where = f"{path}:{number}"
        if len(fields) != len(columns):
            listed = ", ".join(columns)
            raise DataError(
                f"{where}: {len(fields)} fields, but {len(columns)} columns ({listed}); mend the row or `columns`"
            )
        yield row_example(columns, fields, where, options.label_separator, defects)
        empty = False
    if empty:
        raise DataError(f"{path}: no row after the header; a data file holds at least one example")


def _check_columns(columns: tuple[str, ...], path: Path, given: bool) -> None:
    named = [name for name in columns if name != SKIPPED]
    source = "`columns`" if given else "the header"
    for wanted, many in ((TEXT_COLUMNS, "no text column"), (PAIR_COLUMNS, "")):
        count = sum(name in wanted for name in named)
        if count > 1 or (many and not count):
            what = many if not count else f"{count} columns of {', '.join(wanted)}"
            raise DataError(
                f"{path}:1: {what} in {source} ({', '.join(columns)}); name one {' or '.join(wanted)}, "
                "with `columns = [...]` in the configuration if the file has no header"
            )
    doubled = sorted({name for name in named if named.count(name) > 1 or not name})
    if doubled:
        raise DataError(
            f"{path}:1: column '{doubled[0]}' is empty or doubled in {source}; name each once, or `_` to skip it"
        )


def row_example(
    columns: tuple[str, ...], fields: list[str], where: str, separator: str | None, defects: Defects
) -> Example:
    """One row's example. Raises DataError for an empty text."""
    text, pair = "", None
    values: dict[str, FieldValue] = {}
    for name, value in zip(columns, fields, strict=True):
        if name in TEXT_COLUMNS or name in PAIR_COLUMNS:
            if not value.strip():
                raise DataError(
                    f"{where}: column '{name}' is empty; a text needs at least one character, remove the row"
                )
            if name in TEXT_COLUMNS:
                text = value
            else:
                pair = value
        elif name != SKIPPED:
            if value.strip() or separator is not None:
                values[name] = class_value(value.strip(), separator)
            else:
                defects.add(NO_CLASS, where)
    return Example(text, values, pair=pair, source=where)

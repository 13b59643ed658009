"""Rows of columns, shared by the tab-separated and comma-separated formats.

Column names: `text`, `text_a` or `sentence` is the text, `text_b` or `text_pair` its pair, `_` is
skipped. Any other column is a class field.
"""

from collections import Counter
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
    """Yield the examples of rows.

    Args:
        rows: line number and fields of each row.
        path: file of the rows, for messages.
        options: format options.
        defects: tally of repaired defects.

    Raises:
        DataError: a header without a text, a doubled column, a wrong number of fields, or an empty
            text.
    """
    rows = iter(rows)
    columns = options.columns
    if options.header or (options.header is None and not columns):
        _, header = next(rows)
        columns = columns or tuple(map(str.strip, header))
    _check_columns(columns, path, "`columns`" if options.columns else "the header")
    is_empty = True
    for number, fields in rows:
        source = f"{path}:{number}"
        if len(fields) != len(columns):
            listed = ", ".join(columns)
            raise DataError(
                f"{source}: {len(fields)} fields, but {len(columns)} columns ({listed}); correct the row or `columns`"
            )
        yield row_example(columns, fields, source, options.label_separator, defects)
        is_empty = False
    if is_empty:
        raise DataError(f"{path}: no row after the header; a data file holds at least one example")


def count_texts(names: Iterable[str]) -> tuple[int, int]:
    """Return the number of columns that hold the text, and of those that hold its pair."""
    text_count = 0
    pair_count = 0
    for name in names:
        text_count += name in TEXT_COLUMNS
        pair_count += name in PAIR_COLUMNS
    return text_count, pair_count


def _check_columns(columns: tuple[str, ...], path: Path, origin: str) -> None:
    """Check that there is one text, at most one pair, and no doubled column.

    `origin` tells who names the columns.
    """
    names = [name for name in columns if name != SKIPPED]
    text_count, pair_count = count_texts(names)
    fault = ""
    allowed: tuple[str, ...] = TEXT_COLUMNS
    if text_count == 0:
        fault = "no text column"
    elif text_count > 1:
        fault = f"{text_count} columns of {', '.join(TEXT_COLUMNS)}"
    elif pair_count > 1:
        fault = f"{pair_count} columns of {', '.join(PAIR_COLUMNS)}"
        allowed = PAIR_COLUMNS
    if fault:
        raise DataError(
            f"{path}:1: {fault} in {origin} ({', '.join(columns)}); name one {' or '.join(allowed)}, "
            "with `columns = [...]` in the configuration if the file has no header"
        )
    doubled = []
    for name, count in sorted(Counter(names).items()):
        if count > 1 or not name:
            doubled.append(name)
    if doubled:
        raise DataError(
            f"{path}:1: column '{doubled[0]}' is empty or doubled in {origin}; name each once, or `_` to skip it"
        )


def row_example(
    columns: tuple[str, ...], fields: list[str], source: str, separator: str | None, defects: Defects
) -> Example:
    """Convert one row to an example.

    Args:
        columns: names of the columns.
        fields: their values.
        source: `file:line`, for messages.
        separator: between several classes in one column. None: one class.
        defects: tally of repaired defects.

    Raises:
        DataError: a text is empty.
    """
    text = ""
    pair = None
    values: dict[str, FieldValue] = {}
    for name, value in zip(columns, fields, strict=True):
        is_text = name in TEXT_COLUMNS
        if is_text or name in PAIR_COLUMNS:
            if not value.strip():
                raise DataError(
                    f"{source}: column '{name}' is empty; a text needs at least one character, remove the row"
                )
            if is_text:
                text = value
            else:
                pair = value
        elif name != SKIPPED:
            if value.strip() or separator is not None:
                values[name] = class_value(value.strip(), separator)
            else:
                defects.add(NO_CLASS, source)
    return Example(text, values, pair=pair, source=source)

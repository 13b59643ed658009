"""Rows of columns, shared by the tab-separated and comma-separated formats.

Column names: `text`, `text_a`, `sentence` or `utterance` is the text, `text_b` or `text_pair` its pair. Public
data sets have `question` with `context` or `passage`, `sentence1` with `sentence2`, `premise` with
`hypothesis`, `question1` with `question2`. `_` and numbers of rows (`id`, `idx`, `guid`) are skipped
and counted. A column of tags, offsets or JSON may hold spans (`palm_trainer.data.formats.cell_spans`). Any other column is a class field.
Upper and lower case of these names are the same.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path

from palm_trainer.data.example import Example, FieldValue
from palm_trainer.data.formats.cell_spans import find_notation, read_json_spans, read_offsets, read_tags
from palm_trainer.data.formats.text_files import Defects, FormatOptions, class_value
from palm_trainer.errors import DataError

TEXT_COLUMNS = ("text", "text_a", "sentence", "utterance", "question", "sentence1", "premise", "question1")
PAIR_COLUMNS = ("text_b", "text_pair", "context", "passage", "sentence2", "hypothesis", "question2")
_PAIRS: Mapping[str, tuple[str, ...]] = {
    "question": ("context", "passage"),
    "sentence1": ("sentence2",),
    "premise": ("hypothesis",),
    "question1": ("question2",),
}
"""Names of the pair that belong to one name of the text. `text_pair` and `text_b` belong to all."""
UNREAD = ("id", "idx", "guid")
"""Names of columns that number the rows."""
SKIPPED = "_"
NO_CLASS = "empty class (read as unlabelled)"
LIKE_A_HEADER = (
    "first row that looks like a header (read as a row, since `columns` names the columns; set `header = true`)"
)
ANNOTATED = "text that looks annotated, as [name : value] or [value](name) (read as it is; write spans in a column, or convert to jsonl)"
ANNOTATION = re.compile(r"\[\w+ : [^\[\]]+\]|\[[^\[\]]+\]\(\w+\)")
_SAMPLE_ROWS = 100
"""Rows that tell whether a column holds spans."""


def examples(
    rows: Iterable[tuple[int, list[str]]],
    path: Path,
    options: FormatOptions,
    defects: Defects,
    *,
    reads_spans: bool = True,
) -> Iterator[Example]:
    """Yield the examples of rows.

    Args:
        rows: line number and fields of each row.
        path: file of the rows, for messages.
        options: format options.
        defects: tally of repaired defects.
        reads_spans: read spans in cells. False: every cell is a class.

    Raises:
        DataError: a header without a text, a doubled column, a wrong number of fields, or an empty
            text.
    """
    rows = iter(rows)
    columns = options.columns
    if options.header or (options.header is None and not columns):
        _, header = next(rows)
        # A column without a name is the number of the row, as pandas writes it.
        columns = columns or tuple(name.strip() or SKIPPED for name in header)
    origin = "`columns`" if options.columns else "the header"
    _check_columns(columns, path, origin)
    texts = find_texts(columns, f"{path}:1")
    if "text" not in texts.values():
        raise DataError(
            f"{path}:1: no text column in {origin} ({', '.join(columns)}); name one {' or '.join(TEXT_COLUMNS[:3])}, "
            "with `columns = [...]` in the configuration if the file has no header"
        )
    sample = list(islice(rows, _SAMPLE_ROWS))
    if options.columns and options.header is None and sample and names_a_text(sample[0][1]):
        defects.add(LIKE_A_HEADER, f"{path}:{sample[0][0]}")
    roles = _column_roles(columns, texts, options)
    if reads_spans:
        roles = _with_spans(roles, sample)
    is_empty = True
    for number, fields in chain(sample, rows):
        source = f"{path}:{number}"
        if len(fields) != len(columns):
            listed = ", ".join(columns)
            raise DataError(
                f"{source}: {len(fields)} fields, but {len(columns)} columns ({listed}); correct the row or `columns`"
            )
        yield _row_example(roles, fields, source, options, defects)
        is_empty = False
    if is_empty:
        raise DataError(f"{path}: no row after the header; a data file holds at least one example")


def find_texts(columns: Sequence[str], source: object) -> dict[str, str]:
    """Return `text` or `text_pair` for each column that holds a text.

    A column of that very name excludes the other names.

    Args:
        columns: names of the columns.
        source: place of the names, for messages.

    Raises:
        DataError: several columns could be the text or its pair.
    """
    roles: dict[str, str] = {}
    names: tuple[str, ...] = TEXT_COLUMNS
    for role in ("text", "text_pair"):
        candidates = [role] if role in columns else [column for column in columns if column.lower() in names]
        if len(candidates) > 1:
            raise DataError(
                f"{source}: columns {' and '.join(candidates)} could both be the {role}; say which with `columns`"
            )
        for name in candidates:
            roles[name] = role
        names = PAIR_COLUMNS[:2]
        for name in candidates:
            names += _PAIRS.get(name.lower(), ())
    return roles


def names_a_text(columns: Sequence[str]) -> bool:
    """Return True if one of the names is that of a text."""
    return any(name.strip().lower() in TEXT_COLUMNS for name in columns)


def unread_kind(name: str, columns: Sequence[str] = ()) -> str:
    """Describe a column or key that is passed over.

    Args:
        name: its name.
        columns: the option `columns`, if it is set.
    """
    if columns:
        return f"'{name}', which `columns` does not name (passed over)"
    return f"'{name}' (passed over)"


def _column_roles(columns: Sequence[str], texts: Mapping[str, str], options: FormatOptions) -> list[tuple[str, str]]:
    """Return name and role of each column: `text`, `text_pair`, `class`, or how it is told as passed over."""
    roles = []
    for position, name in enumerate(columns, 1):
        role = texts.get(name, "class")
        if name == SKIPPED:
            role = f"column {position}, named '{SKIPPED}' (passed over)"
        elif name.lower() in UNREAD and name not in options.columns:
            role = unread_kind(name)
        roles.append((name, role))
    return roles


def _with_spans(roles: list[tuple[str, str]], sample: Sequence[tuple[int, list[str]]]) -> list[tuple[str, str]]:
    """Return the roles with the notation of spans in the place of `class` where the first rows hold spans."""
    names = [role for _, role in roles]
    rows = [fields for _, fields in sample if len(fields) == len(roles)]
    if "text" not in names or not rows:
        return roles
    texts = [row[names.index("text")] for row in rows]
    with_spans = []
    for column, (name, role) in enumerate(roles):
        notation = find_notation([row[column] for row in rows], texts) if role == "class" else None
        with_spans.append((name, notation or role))
    return with_spans


def _check_columns(columns: tuple[str, ...], path: Path, origin: str) -> None:
    """Check that no column is doubled or without a name. `origin` tells who names the columns."""
    names = [name for name in columns if name != SKIPPED]
    doubled = []
    for name, count in sorted(Counter(names).items()):
        if count > 1 or not name:
            doubled.append(name)
    if doubled:
        raise DataError(
            f"{path}:1: column '{doubled[0]}' is empty or doubled in {origin}; name each once, or `_` to skip it"
        )


def _row_example(
    roles: Sequence[tuple[str, str]], fields: list[str], source: str, options: FormatOptions, defects: Defects
) -> Example:
    """Convert one row to an example. Raises DataError if a text is empty, or spans do not fit it."""
    text = ""
    pair = None
    values: dict[str, FieldValue] = {}
    span_cells = []
    for (name, role), value in zip(roles, fields, strict=True):
        if role in ("text", "text_pair"):
            if not value.strip():
                raise DataError(
                    f"{source}: column '{name}' is empty; a text needs at least one character, remove the row"
                )
            if role == "text":
                text = value
                if ANNOTATION.search(text):
                    defects.add(ANNOTATED, source)
            else:
                pair = value
        elif role == "class":
            label = class_cell(value, options.label_separator, source, defects)
            if label is not None:
                values[name] = label
        elif role in ("tags", "offsets", "json"):
            span_cells.append((name, role, value))
        elif value.strip():
            defects.add(role, source)
    words = None
    for name, role, value in span_cells:
        place = f"{source}: column '{name}'"
        if role == "offsets":
            values[name] = read_offsets(value, text, place, defects)
        elif role == "json":
            values[name] = read_json_spans(value, text, place, defects)
        elif value.strip():
            values[name], words = read_tags(value, text, options.scheme, place, defects)
        else:
            defects.add(NO_CLASS, source)
    return Example(text, values, pair=pair, words=words, source=source)


def class_cell(value: str, separator: str | None, source: str, defects: Defects) -> str | tuple[str, ...] | None:
    """Return the class, or several, in a cell; None if it is empty and holds one class.

    Args:
        value: text of the cell.
        separator: between several classes. None: one class.
        source: `file:line`, for messages.
        defects: tally of empty cells.
    """
    if value.strip() or separator is not None:
        return class_value(value.strip(), separator, source, defects)
    defects.add(NO_CLASS, source)
    return None

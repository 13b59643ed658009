"""Detection of the columns of a table without a header, or with a header that names no text."""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from palm_trainer.data.formats.cell_spans import find_notation, has_offsets, tag_share
from palm_trainer.data.formats.columns import ANNOTATION, PAIR_COLUMNS, SKIPPED, TEXT_COLUMNS, names_a_text
from palm_trainer.data.formats.csv import SEPARATOR_LINE
from palm_trainer.data.formats.tags import guess_scheme
from palm_trainer.data.formats.text_files import FormatOptions
from palm_trainer.errors import DataError

_DELIMITERS = (",", ";", "\t", "|")
_SPANS = "slots"
_FEW_ROWS = 20
"""Rows up to which nothing is concluded from a text that occurs again."""
_MOSTLY = 0.9
_MANY_TAGS = 0.6
"""Share of tags among the words of a column that is no text, also where the last word of each cell is an intent."""
_MOST_CLASSES = 0.5
"""Classes of a column, as a share of its rows. Numbers of rows are more."""
_MARKUP = re.compile(r"\s*(?:\{.*\}|\[.*\])\s*", re.DOTALL)
"""A cell of JSON, or of a tree in brackets (`[IN:GET_WEATHER ... ]`)."""
_WIDE = re.compile(r"[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff]")
_LETTER = re.compile(r"[^\W\d_]")
_FEWEST_LETTERS = 4
"""Letters of a text in the mean. A column of shorter cells holds codes."""


def named_columns(names: Mapping[int, str], count: int) -> tuple[str, ...]:
    """Return a name for each column. Columns without one are skipped."""
    columns = []
    for column in range(count):
        columns.append(names.get(column, SKIPPED))
    return tuple(columns)


def csv_options(lines: Sequence[str]) -> FormatOptions:
    """Return the delimiter of a CSV file where it is no comma, and the columns where its header names no text.

    Args:
        lines: first lines of the file.

    Raises:
        DataError: no column is of use.
    """
    separator_line = SEPARATOR_LINE.match(f"{lines[0]}\n")
    if separator_line is not None:
        lines = lines[1:]
    delimiters = _DELIMITERS if separator_line is None else (separator_line[1],)
    for delimiter, rows in _tables(lines, delimiters):
        if _names_texts(rows):
            options = FormatOptions()
        elif _has_texts(rows[1:]):
            options = tsv_options(rows)
        else:
            break
        return options if delimiter == "," or separator_line is not None else replace(options, delimiter=delimiter)
    return FormatOptions()


def header_delimiter(lines: Sequence[str]) -> str | None:
    """Return the delimiter of lines whose first one is the header of a table with a text. None: it is none.

    Args:
        lines: first lines of a file that is not called a table.
    """
    for delimiter, rows in _tables(lines, _DELIMITERS):
        if names_a_text(rows[0]):
            return delimiter
    return None


def _tables(lines: Sequence[str], delimiters: Sequence[str]) -> Iterator[tuple[str, list[list[str]]]]:
    """Yield each delimiter that divides all rows into the same number of cells, two or more, and these rows."""
    for delimiter in delimiters:
        rows: list[list[str]] = []
        with suppress(csv.Error):  # the sample may end within quotes
            for row in csv.reader(lines, delimiter=delimiter, strict=True):
                if row:
                    rows.append(row)
        widths = set(map(len, rows))
        if len(rows) > 1 and len(widths) == 1 and widths != {1}:
            yield delimiter, rows


def _has_texts(body: Sequence[Sequence[str]]) -> bool:
    """Return True if a column without markup holds words that differ."""
    for column in _text_columns(body):
        cells = [row[column] for row in body]
        letters = sum(len(_LETTER.findall(cell)) for cell in cells)
        if letters >= _FEWEST_LETTERS * len(cells) and len(set(cells)) > len(cells) / 2:
            return True
    return False


def tsv_options(rows: Sequence[Sequence[str]]) -> FormatOptions:
    """Name the columns of rows.

    The longest column is the text, of those that hold no tags, offsets, JSON or trees. The second longest is the pair, if it
    is long and varied. The label is the column with the fewest different values, of those with at least two. Tags and offsets
    are spans.

    Args:
        rows: first rows of the file, all with the same number of fields.

    Raises:
        DataError: beside the text there is nothing but what no reader takes.
    """
    if _names_texts(rows):
        return FormatOptions()
    body = rows[1:] or rows
    columns = list(zip(*body, strict=True))
    counts = list(map(len, map(set, columns)))
    text_columns = _text_columns(body)
    names, class_columns = _name_texts(body, text_columns, counts)
    text_column = next(iter(names))
    header = None
    if class_columns:
        label = min(class_columns, key=lambda column: (counts[column] < 2, counts[column]))
        names[label] = "label"
        # A first line whose class does not occur again is a header.
        if rows[0][label] not in columns[label]:
            header = True
            names |= _class_names(rows, class_columns)
    markup_columns = sorted(set(range(len(rows[0]))) - set(text_columns))
    scheme = FormatOptions().scheme
    for column in markup_columns:
        notation = find_notation(columns[column], columns[text_column])
        if notation is None:
            continue
        names[column] = _SPANS
        if notation == "tags":
            scheme = guess_scheme(" O ".join(columns[column]).split())
        if find_notation([rows[0][column]], [rows[0][text_column]]) is None and rows[0][column].strip():
            header = True
        break
    if markup_columns and len(names) == 1:
        raise DataError(
            f"a table of texts and of JSON, trees or tags in column {markup_columns[0] + 1}, which no reader takes; "
            "write the spans as offsets (START:END:LABEL,...), as a tag for each word, or convert the file to jsonl"
        )
    return FormatOptions(columns=named_columns(names, len(rows[0])), header=header, scheme=scheme)


def _name_texts(
    body: Sequence[Sequence[str]], text_columns: Sequence[int], counts: Sequence[int]
) -> tuple[dict[int, str], list[int]]:
    """Return the names of the text, which comes first, and its pair, and the columns that may hold classes.

    Args:
        body: the rows.
        text_columns: columns without markup.
        counts: number of different cells of each column.
    """
    lengths = []
    for cells in zip(*body, strict=True):
        lengths.append(sum(map(_length, cells)))
    text_column, *columns = sorted(
        text_columns, key=lambda column: (counts[column] <= 0.5 * len(body), -lengths[column])
    )
    names = {text_column: TEXT_COLUMNS[1]}
    if columns:
        candidate = columns[0]
        if counts[candidate] > 0.5 * len(body) and lengths[candidate] > 12 * len(body):
            if not _repeats(body, text_column, candidate):
                first, second = sorted((text_column, candidate))
                names = {first: TEXT_COLUMNS[1], second: PAIR_COLUMNS[0]}
            del columns[0]
    class_columns = []
    for column in columns:
        if counts[column] <= max(2, _MOST_CLASSES * len(body)):
            class_columns.append(column)
    return names, class_columns


def _names_texts(rows: Sequence[Sequence[str]]) -> bool:
    """Return True if the header names a text. A `question` without a passage that is the same in many rows is none."""
    header = [name.strip().lower() for name in rows[0]]
    if not names_a_text(header):
        return False
    if header.count("question") != 1 or len(rows) <= _FEW_ROWS:
        return True
    other_names = set(header) - {"question"}
    questions = {row[header.index("question")] for row in rows[1:]}
    return names_a_text(list(other_names)) or not other_names.isdisjoint(PAIR_COLUMNS) or len(questions) > len(rows) / 2


def _class_names(rows: Sequence[Sequence[str]], class_columns: Sequence[int]) -> dict[int, str]:
    """Return the names in the header of several columns of classes; none for a single one. Numbers are no classes, nor are texts."""
    names = {}
    for column in class_columns:
        name = rows[0][column].strip()
        classes = {row[column].strip() for row in rows[1:]} - {""}
        if name and not names_a_text([name]) and len(classes) > 1 and not all(map(str.isdigit, classes)):
            names[column] = name
    return names if len(set(names.values())) == len(names) > 1 else {}


def _text_columns(body: Sequence[Sequence[str]]) -> list[int]:
    """Return the columns that hold no markup; all of them, if all do."""
    columns = []
    for column, cells in enumerate(zip(*body, strict=True)):
        filled = list(filter(str.strip, cells))
        is_markup = filled and (
            tag_share(filled) > _MANY_TAGS
            or has_offsets(filled)
            or sum(_MARKUP.fullmatch(cell) is not None for cell in filled) > _MOSTLY * len(filled)
            or sum(ANNOTATION.search(cell) is not None for cell in filled) > 0.5 * len(filled)
        )
        if not is_markup:
            columns.append(column)
    return columns or list(range(len(body[0])))


def _length(cell: str) -> int:
    """Return the characters of a cell. One of a script without blanks counts as three: it says as much."""
    return len(cell) + 2 * len(_WIDE.findall(cell))


def _repeats(body: Sequence[Sequence[str]], first: int, second: int) -> bool:
    """Return True if two columns hold the same texts in most rows, but for case and blanks: the second is no pair."""
    equal_count = 0
    for row in body:
        equal_count += "".join(row[first].lower().split()) == "".join(row[second].lower().split())
    return equal_count > _MOSTLY * len(body)

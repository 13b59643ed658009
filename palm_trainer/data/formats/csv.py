"""Comma-separated rows as in RFC 4180: quoted fields may hold the delimiter, line breaks and doubled quotes.

Lines end in CRLF or LF.
"""

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

from palm_trainer.data.example import Example
from palm_trainer.data.formats.columns import examples
from palm_trainer.data.formats.text_files import Defects, FormatOptions, read_text
from palm_trainer.errors import DataError

SEPARATOR_LINE = re.compile(r"sep=([^\r\n\"])\r?\n")
"""First line that tells the delimiter."""
BROKEN_LINE = "row with a line break inside quotes (kept)"


def parse(path: Path, options: FormatOptions, defects: Defects) -> Iterator[Example]:
    """Parse the rows of a file, with the columns of `palm_trainer.data.formats.columns`.

    Args:
        path: file to read.
        options: format options.
        defects: tally of repaired defects.

    Raises:
        DataError: a quoted field is broken, or as `columns.examples`.
    """
    return examples(_rows(path, options.delimiter or ",", defects), path, options, defects)


def _rows(path: Path, delimiter: str, defects: Defects) -> Iterator[tuple[int, list[str]]]:
    """Yield the first line and the fields of each row."""
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise DataError(f"{path}: `delimiter` must be one character, not a quote or a line end, got {delimiter!r}")
    text = read_text(path, defects)
    separator_line = SEPARATOR_LINE.match(text)
    if separator_line is not None:  # Excel writes and reads it
        delimiter = separator_line[1]
        defects.add("line 'sep=' before the header (read as the delimiter)", f"{path}:1")
        text = text[separator_line.end() :]
    # The limit of the module `csv` on fields is for the whole process, and never lowered here.
    csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    skipped_lines = int(separator_line is not None)
    first_line = 1 + skipped_lines
    try:
        for fields in reader:
            if any("\n" in field for field in fields):
                defects.add(BROKEN_LINE, f"{path}:{first_line}")
            yield first_line, fields
            first_line = reader.line_num + 1 + skipped_lines
    except csv.Error as error:
        raise DataError(
            f"{path}:{first_line}: {error}; double the quotes inside quoted fields; files without quoting are 'tsv'"
        ) from None

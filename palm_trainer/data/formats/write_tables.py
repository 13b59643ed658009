"""Writers of tables (tsv, csv) and plain text: classes and texts, no spans."""

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

from palm_trainer.data.example import Example
from palm_trainer.data.formats.text_fields import class_fields, class_text, text_columns, to_one_line, write_lines
from palm_trainer.data.formats.text_files import FormatOptions


def write_tsv(examples: Sequence[Example], path: Path, options: FormatOptions) -> None:
    """Write PALM's table: a column for each class field, `text_a` and, for pairs, `text_b`.

    Args:
        examples: examples to write.
        path: new file.
        options: options that the file will be read with.

    Raises:
        DataError: only some examples have a second text.
    """
    write_lines(path, list(map("\t".join, _rows(examples, "tsv", options, to_one_line))))


def write_csv(examples: Sequence[Example], path: Path, options: FormatOptions) -> None:
    """Write the columns of `write_tsv` as in RFC 4180: fields with line breaks, quotes or commas are quoted.

    Args:
        examples: examples to write.
        path: new file.
        options: options that the file will be read with.

    Raises:
        DataError: only some examples have a second text.
    """
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(_rows(examples, "csv", options, str))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.getvalue(), encoding="utf-8", newline="")


def write_text(examples: Sequence[Example], path: Path, options: FormatOptions) -> None:
    """Write the texts only, one a line.

    Args:
        examples: examples to write.
        path: new file.
        options: not used.
    """
    write_lines(path, [to_one_line(example.text) for example in examples])


def _rows(
    examples: Sequence[Example], format_name: str, options: FormatOptions, to_cell: Callable[[str], str]
) -> list[list[str]]:
    """Return the header, and a row for each example."""
    classes = class_fields(examples)
    columns = text_columns(examples, format_name)
    rows = [[*classes, *columns]]
    for example in examples:
        cells = []
        for name in classes:
            cells.append(class_text(example.fields.get(name, ""), options))
        cells.append(to_cell(example.text))
        if len(columns) > 1:
            cells.append(to_cell(example.pair or ""))
        rows.append(cells)
    return rows

"""Examples -> tables (tsv, csv, a JSON array) and plain text: classes and texts, no spans."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from palm_trainer.data.example import Example
from palm_trainer.data.formats.text_fields import class_fields, class_text, text_columns, to_one_line, write_lines
from palm_trainer.data.formats.text_files import FormatOptions


def write_tsv(examples: Sequence[Example], path: Path, options: FormatOptions) -> None:
    """PALM's table for classification and matching: a column a class field, `text_a`, and `text_b` where there are pairs.

    Raises:
        DataError: where some examples have a second text and others none.
    """
    write_lines(path, ["\t".join(cells) for cells in _rows(examples, "tsv", options, to_one_line)])


def write_csv(examples: Sequence[Example], path: Path, options: FormatOptions) -> None:
    """The same columns as RFC 4180 has them: fields with line breaks, quotes or commas are quoted. Raises as `write_tsv`."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(_rows(examples, "csv", options, str))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.getvalue(), encoding="utf-8", newline="")


def write_json(examples: Sequence[Example], path: Path, options: FormatOptions) -> None:
    """The same columns as keys of an array of objects. Raises as `write_tsv`."""
    header, *rows = _rows(examples, "json", options, str)
    write_lines(
        path, [json.dumps([dict(zip(header, cells, strict=True)) for cells in rows], ensure_ascii=False, indent=0)]
    )


def write_text(examples: Sequence[Example], path: Path, options: FormatOptions) -> None:
    """The texts alone, a line each."""
    write_lines(path, [to_one_line(example.text) for example in examples])


def _rows(
    examples: Sequence[Example], form: str, options: FormatOptions, cell: Callable[[str], str]
) -> list[list[str]]:
    """The header and a row an example."""
    classes, columns = class_fields(examples), text_columns(examples, form)
    rows = [[*classes, *columns]]
    for example in examples:
        given = [cell(example.text), cell(example.pair or "")][: len(columns)]
        rows.append([*(class_text(example.fields.get(name, ""), options) for name in classes), *given])
    return rows

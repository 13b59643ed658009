"""Tab-separated rows, among them PALM's `label`/`text_a`/`text_b`.

No quoting: quotation marks are plain characters.
"""

from collections.abc import Iterator
from pathlib import Path

from palm_trainer.data.example import Example
from palm_trainer.data.formats.columns import examples
from palm_trainer.data.formats.text_files import Defects, FormatOptions, read_text, split_lines

LONE_QUOTE = "row with a quotation mark that has no partner (kept; tsv has no quoting)"


def parse(path: Path, options: FormatOptions, defects: Defects) -> Iterator[Example]:
    """Parse the rows of a file, with the columns of `palm_trainer.data.formats.columns`.

    Args:
        path: file to read.
        options: format options.
        defects: tally of repaired defects.

    Raises:
        DataError: as `columns.examples`.
    """
    delimiter = options.delimiter or "\t"
    return examples(_rows(path, delimiter, defects), path, options, defects)


def _rows(path: Path, delimiter: str, defects: Defects) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and fields of each row."""
    for number, line in enumerate(split_lines(read_text(path, defects)), 1):
        fields = line.split(delimiter)
        if '"' in line and any(field.count('"') % 2 for field in fields):
            defects.add(LONE_QUOTE, f"{path}:{number}")
        yield number, fields

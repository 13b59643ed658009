"""Tab-separated rows, PALM's `label`/`text_a`/`text_b` among them. No quoting: quotation marks are plain characters."""

from collections.abc import Iterator
from pathlib import Path

from palm_trainer.data.example import Example
from palm_trainer.data.formats.columns import examples
from palm_trainer.data.formats.text_files import Defects, FormatOptions, lines, read_text

LONE_QUOTE = "row with a quotation mark that has no partner (kept; tsv has no quoting)"


def parse(path: Path, options: FormatOptions, defects: Defects) -> Iterator[Example]:
    """Examples of the file, a line each; the columns are those of `palm_trainer.data.formats.columns`."""
    delimiter = options.delimiter or "\t"
    return examples(_rows(path, delimiter, defects), path, options, defects)


def _rows(path: Path, delimiter: str, defects: Defects) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(lines(read_text(path, defects)), 1):
        fields = line.split(delimiter)
        if '"' in line and any(field.count('"') % 2 for field in fields):
            defects.add(LONE_QUOTE, f"{path}:{number}")
        yield number, fields

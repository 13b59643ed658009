"""Tab-separated rows, PALM's `label`/`text_a`/`text_b` among them. No quoting: quotation marks are plain characters."""

from collections.abc import Iterator
from pathlib import Path

from palm_trainer.example import Example
from palm_trainer.reader.formats.source import Defects, FormatOptions, lines, read_text
from palm_trainer.reader.formats.table import examples


def parse(path: Path, options: FormatOptions, defects: Defects) -> Iterator[Example]:
    """Examples of the file, a line each; the columns are those of `palm_trainer.reader.formats.table`."""
    delimiter = options.delimiter or "\t"
    rows = ((number, line.split(delimiter)) for number, line in enumerate(lines(read_text(path)), 1))
    return examples(rows, path, options, defects)

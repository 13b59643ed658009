"""Plain text without labels (masked language modelling): a sentence a line.

Blank lines are skipped.
"""

from collections.abc import Iterator
from pathlib import Path

from palm_trainer.data.example import Example
from palm_trainer.data.formats.text_files import Defects, FormatOptions, read_text, split_lines


def parse(path: Path, options: FormatOptions, defects: Defects) -> Iterator[Example]:
    """Yield the examples of a file, one for each line that is not blank.

    Args:
        path: file to read.
        options: not used.
        defects: tally of repaired defects.

    Raises:
        DataError: the file cannot be read.
    """
    for number, line in enumerate(split_lines(read_text(path, defects)), 1):
        if line.strip():
            yield Example(line, source=f"{path}:{number}")

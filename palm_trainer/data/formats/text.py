"""Plain text without labels (masked language modelling): a sentence a line; blank lines are passed over."""

from collections.abc import Iterator
from pathlib import Path

from palm_trainer.data.example import Example
from palm_trainer.data.formats.text_files import Defects, FormatOptions, lines, read_text


def parse(path: Path, options: FormatOptions, defects: Defects) -> Iterator[Example]:
    """Examples of the file, a line that is not blank each."""
    for number, line in enumerate(lines(read_text(path, defects)), 1):
        if line.strip():
            yield Example(line, source=f"{path}:{number}")

"""Rasa's old training data in Markdown: `## intent:NAME` above lines `- text`, and sections that say what values stand for."""

import re
from collections.abc import Iterator
from pathlib import Path

from palm_trainer.data.example import Example
from palm_trainer.data.formats.rasa_annotations import read_entities
from palm_trainer.data.formats.rasa_values import SECTIONS, add_section_item
from palm_trainer.data.formats.text_files import Defects, read_text, split_lines
from palm_trainer.errors import DataError

OUTSIDE = "line that is no item of its section (passed over)"
_HEADING = re.compile(r"##[ \t]*(intent|synonym|regex|lookup)[ \t]*:(.*)", re.IGNORECASE)
_ITEMS = ("-", "*", "+")


def is_markdown(text: str) -> bool:
    """Return True if a text has a heading of Rasa's Markdown."""
    return any(line.startswith("##") and _HEADING.match(line) for line in split_lines(text))


def parse_markdown(file: Path, defects: Defects) -> Iterator[Example]:
    """Yield the examples of the intents of a file.

    Args:
        file: file to read.
        defects: tally of content that is passed over.

    Raises:
        DataError: a heading is not one of Rasa's, an example is empty, or an annotation is
            malformed.
    """
    section = ""
    name = ""
    in_comment = False
    for number, line in enumerate(split_lines(read_text(file, defects)), 1):
        source = f"{file}:{number}"
        content = line.strip()
        if in_comment or content.startswith("<!--"):
            in_comment = "-->" not in content
        elif content.startswith("##"):
            section, name = _read_heading(content, source)
        elif section in SECTIONS and content.startswith(_ITEMS):
            add_section_item(section, name, content[1:].strip(), source, defects)
        elif section == "intent" and content.startswith(_ITEMS):
            text, spans = read_entities(content[1:].strip(), source, defects)
            if not text.strip():
                raise DataError(f"{source}: an empty example; remove it")
            yield Example(text, {"intent": name, "slots": spans}, source=source)
        elif content and not (content.startswith("#") and not section):
            defects.add(OUTSIDE, source)


def _read_heading(line: str, source: str) -> tuple[str, str]:
    """Return kind and name of a section."""
    heading = _HEADING.fullmatch(line)
    if heading is None or not heading[2].strip():
        sections = ", ".join(f"`## {kind}:NAME`" for kind in ("intent", *SECTIONS))
        raise DataError(f"{source}: a heading must be one of {sections}, got '{line}'. Correct it.")
    return heading[1].lower(), heading[2].strip()

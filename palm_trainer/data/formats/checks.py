"""Checks that hold for every format: characters that no file can hold, and spans that no model can learn."""

from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import TypeAlias

from palm_trainer.data.example import Example, LabelledSpan
from palm_trainer.data.formats.jsonl import ANSWER
from palm_trainer.data.formats.text_files import Defects, FormatOptions
from palm_trainer.errors import DataError

Parse: TypeAlias = Callable[[Path, FormatOptions, Defects], Iterator[Example]]

INVISIBLE = "span that holds no visible character (never learnt)"
BLANK_EDGE = "span that begins or ends with a blank (kept)"


def checked(parse: Parse) -> Parse:
    """Wrap a parser, so that its examples are checked and deep nesting is a DataError."""

    @wraps(parse)
    def parse_checked(path: Path, options: FormatOptions, defects: Defects) -> Iterator[Example]:
        try:
            for example in parse(path, options, defects):
                _check_characters(example)
                _note_spans(example, defects)
                yield example
        except RecursionError:
            raise DataError(f"{path}: content nested too deeply to be read; use fewer brackets") from None

    return parse_checked


def _check_characters(example: Example) -> None:
    """Check that all strings of an example can be written as UTF-8. JSON's escapes can make half a surrogate pair."""
    strings = [example.text, example.pair or "", *example.fields]
    for value in example.fields.values():
        if isinstance(value, str):
            strings.append(value)
            continue
        for item in value:
            strings += [item.label, item.role, item.group] if isinstance(item, LabelledSpan) else [item]
    for string in strings:
        try:
            string.encode()
        except UnicodeEncodeError as error:
            place = example.source.encode("utf-8", "backslashreplace").decode()
            code = ord(string[error.start])
            raise DataError(
                f"{place}: U+{code:04X} is half of a surrogate pair, which no text can hold; write the whole character"
            ) from None


def _note_spans(example: Example, defects: Defects) -> None:
    """Count the spans that hold nothing visible, and those with blanks at their edges."""
    for name, value in example.fields.items():
        text = example.pair if name == ANSWER and example.pair is not None else example.text
        for span in value:
            if not isinstance(span, LabelledSpan):
                break
            covered = text[span.start : span.end]
            if not covered[:1].isspace() and not covered[-1:].isspace() and covered[:1].isprintable():
                continue
            if not any(character.isprintable() and not character.isspace() for character in covered):
                defects.add(INVISIBLE, example.source)
            elif covered[0].isspace() or covered[-1].isspace():
                defects.add(BLANK_EDGE, example.source)

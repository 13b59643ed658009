"""Checks that hold for every format: characters that no file can hold, and spans that no model can learn."""

import re
import unicodedata
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import TypeAlias

from palm_serve.bundle.manifest import MAX_NAME_LENGTH
from palm_serve.system.plain_text import plain
from palm_trainer.data.example import Example, LabelledSpan
from palm_trainer.data.formats.jsonl import ANSWER
from palm_trainer.data.formats.text_files import Defects, FormatOptions
from palm_trainer.errors import DataError

Parse: TypeAlias = Callable[[Path, FormatOptions, Defects], Iterator[Example]]

NO_VISIBLE_TEXT = "text without a visible character (kept)"
CONTROL_IN_TEXT = "text with a control character, a byte order mark or U+FFFD (kept)"
CONTROL_IN_NAME = "label or field name with a control or invisible character (kept)"
BLANK_IN_NAME = "label or field name that begins or ends with a blank (kept: another one than without it)"
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff\ufffd]|\r(?!\n)")
"""Characters that no text has on purpose: they are left by another encoding, by a terminal or by joined files."""
_INVISIBLE_CATEGORIES = ("Cc", "Cf", "Zl", "Zp", "Zs")
INVISIBLE = "span that holds no visible character (never learnt)"
BLANK_EDGE = "span that begins or ends with a blank (kept)"


def checked(parse: Parse) -> Parse:
    """Wrap a parser, so that its examples are checked and deep nesting is a DataError."""

    @wraps(parse)
    def parse_checked(path: Path, options: FormatOptions, defects: Defects) -> Iterator[Example]:
        """Read a file and check its examples.

        Args:
            path: the file.
            options: of its format.
            defects: counts what was mended.

        Raises:
            DataError: if the file or an example cannot be used.
        """
        clean_names: set[str] = set()
        first_values: dict[str, tuple[str, bool]] = {}
        try:
            for example in parse(path, options, defects):
                _check_characters(example)
                _check_names(example, clean_names, defects)
                _check_kinds(example, first_values)
                _note_texts(example, defects)
                _note_spans(example, defects)
                yield example
        except RecursionError:
            raise DataError(f"{path}: content nested too deeply to be read; use fewer brackets") from None

    return parse_checked


def _is_visible(text: str) -> bool:
    """Return True if a text has a character that can be seen."""
    return any(unicodedata.category(character) not in _INVISIBLE_CATEGORIES for character in text)


def _names(example: Example) -> Iterator[str]:
    """Yield the names of the fields of an example, its labels, and the roles and groups of its spans."""
    yield from example.fields
    for value in example.fields.values():
        for item in (value,) if isinstance(value, str) else value:
            if isinstance(item, LabelledSpan):
                yield from filter(None, (item.label, item.role, item.group))
            else:
                yield item


def _check_names(example: Example, clean_names: set[str], defects: Defects) -> None:
    """Check that all labels can be seen, and count those with characters that cannot.

    Args:
        example: the example.
        clean_names: names that were found to be right, added to in place.
        defects: tally of names with control characters.

    Raises:
        DataError: a label has no visible character, or more characters than a bundle may hold.
    """
    for name in _names(example):
        if name in clean_names:
            continue
        if not _is_visible(name):
            raise DataError(
                f"{example.source}: a label or field name must have a visible character, got {name!r}. Write its name, or remove it."
            )
        if len(name) > MAX_NAME_LENGTH:
            raise DataError(
                f"{example.source}: a label or field name must have at most {MAX_NAME_LENGTH:,} characters, as in a bundle, "
                f"got {len(name):,}. Shorten it, or correct the columns."
            )
        if plain(name) != name or "\u200b" in name:
            defects.add(CONTROL_IN_NAME, example.source)
        elif name.strip() != name:
            defects.add(BLANK_IN_NAME, example.source)
        else:
            clean_names.add(name)


def _check_kinds(example: Example, first_values: dict[str, tuple[str, bool]]) -> None:
    """Check that a field holds spans in all rows, or in none.

    Args:
        example: the example.
        first_values: place of the first value of each field, and True if it holds spans. Added to in place.

    Raises:
        DataError: the field holds spans in one row and a class in another.
    """
    for name, value in example.fields.items():
        if not value:
            continue
        holds_spans = isinstance(value[0], LabelledSpan)
        first_source, first_holds_spans = first_values.setdefault(name, (example.source, holds_spans))
        if holds_spans != first_holds_spans:
            kinds = ("a class or classes", "spans")
            raise DataError(
                f"{example.source}: '{name}' must hold {kinds[first_holds_spans]}, as in {first_source}, "
                f"got {kinds[holds_spans]}. Correct one of the rows, or give the field another name."
            )


def _note_texts(example: Example, defects: Defects) -> None:
    """Count the texts in which nothing can be seen, and those with characters that no text has on purpose."""
    for text in filter(None, (example.text, example.inputs.second)):
        if not text[:1].isalnum() and not _is_visible(text):
            defects.add(NO_VISIBLE_TEXT, example.source)
        if _CONTROL.search(text):
            defects.add(CONTROL_IN_TEXT, example.source)


def _check_characters(example: Example) -> None:
    """Check that all strings of an example can be written as UTF-8. JSON's escapes can make half a surrogate pair."""
    strings = [example.text, example.inputs.second or "", *example.fields]
    for value in example.fields.values():
        if isinstance(value, str):
            strings.append(value)
            continue
        for item in value:
            strings += [item.label, item.role, item.group] if isinstance(item, LabelledSpan) else [item]
    if "".join(strings).isascii():
        return
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

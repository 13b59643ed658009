"""Helpers of the writers: kinds of fields, and text that fits in one line."""

import re
from collections.abc import Sequence
from pathlib import Path

from palm_trainer.config.mappings import absent
from palm_trainer.data.example import Example, FieldValue, LabelledSpan
from palm_trainer.data.formats.jsonl import ANSWER
from palm_trainer.data.formats.text_files import FormatOptions
from palm_trainer.errors import DataError

_SPAN_FIELDS = ("slots", "tags")
"""Names of fields that hold spans, if no example has one."""


def span_fields(examples: Sequence[Example]) -> list[str]:
    """List the fields that hold spans of the text, in order of appearance."""
    samples: dict[str, FieldValue] = {}
    """The last value of each field that is not empty."""
    for example in examples:
        for name, value in example.fields.items():
            if name != ANSWER and (value or name not in samples):
                samples[name] = value
    names = []
    for name, value in samples.items():
        if select_spans(value) or (not value and name in _SPAN_FIELDS):
            names.append(name)
    return names


def class_fields(examples: Sequence[Example]) -> list[str]:
    """List the fields that hold classes, in order of appearance."""
    names: dict[str, None] = {}
    for example in examples:
        names.update(dict.fromkeys(example.fields))
    excluded = [*span_fields(examples), ANSWER]
    return absent(names, excluded)


def text_columns(examples: Sequence[Example], format_name: str) -> tuple[str, ...]:
    """Return the names of the text columns of a table: one, or two if the examples have pairs.

    Raises:
        DataError: only some examples have a pair.
    """
    single_texts = [example.source for example in examples if example.pair is None]
    if 0 < len(single_texts) < len(examples):
        raise DataError(
            f"{single_texts[0]}: no second text, which other examples have; "
            f"format '{format_name}' needs it in all, write jsonl"
        )
    return ("text_a",) if single_texts else ("text_a", "text_b")


def select_spans(value: FieldValue) -> tuple[LabelledSpan, ...]:
    """Return the spans of a field's value."""
    return tuple(item for item in value if isinstance(item, LabelledSpan))


def choose_main_field(names: Sequence[str], preferred: str) -> str:
    """Choose the field for a format with a single one: the preferred name if it exists, else the first."""
    return preferred if preferred in names or not names else names[0]


def class_text(value: FieldValue, options: FormatOptions) -> str:
    """Write a class, or several classes joined by the separator, in one line."""
    if isinstance(value, str):
        return to_one_line(value)
    labels = []
    for item in value:
        if isinstance(item, str):
            labels.append(to_one_line(item))
    return (options.label_separator or "#").join(labels)


def to_one_line(text: str) -> str:
    """Replace the characters that would end a line or a column by blanks."""
    return re.sub(r"[\t\r\n\x02]", " ", text)


def write_lines(path: Path, rows: Sequence[str]) -> None:
    """Write a file of lines, and create its directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(row + "\n" for row in rows), encoding="utf-8", newline="\n")

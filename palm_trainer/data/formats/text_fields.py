"""What the writers share: which fields of the examples hold classes and which spans, and text that fits a line."""

import re
from collections.abc import Sequence
from pathlib import Path

from palm_trainer.data.example import Example, FieldValue, LabelledSpan
from palm_trainer.data.formats.jsonl import ANSWER
from palm_trainer.data.formats.text_files import FormatOptions
from palm_trainer.errors import DataError

_SPAN_FIELDS = ("slots", "tags")
"""Fields that hold spans where no example shows it by having one."""


def span_fields(examples: Sequence[Example]) -> list[str]:
    """Names of the fields that hold spans of the text, in order of appearance."""
    names = dict.fromkeys(name for example in examples for name in example.fields if name != ANSWER)
    filled = {name: value for example in examples for name, value in example.fields.items() if value}
    return [n for n in names if (select_spans(filled[n]) if n in filled else n in _SPAN_FIELDS)]


def class_fields(examples: Sequence[Example]) -> list[str]:
    """Names of the fields that hold classes, in order of appearance."""
    others = [*span_fields(examples), ANSWER]
    return [name for name in dict.fromkeys(n for e in examples for n in e.fields) if name not in others]


def text_columns(examples: Sequence[Example], form: str) -> tuple[str, ...]:
    """Names of the text columns of a table: one, or two where the examples have pairs. Raises DataError where only some have one."""
    alone = [example.source for example in examples if example.pair is None]
    if 0 < len(alone) < len(examples):
        raise DataError(
            f"{alone[0]}: no second text, which other examples have; format '{form}' needs it in all, write jsonl"
        )
    return ("text_a",) if alone else ("text_a", "text_b")


def select_spans(value: FieldValue) -> tuple[LabelledSpan, ...]:
    """The spans of a field's value."""
    return tuple(item for item in value if isinstance(item, LabelledSpan))


def choose_main_field(names: Sequence[str], wanted: str) -> str:
    """The field that a format with one place for it holds: the one of that name, or else the first."""
    return wanted if wanted in names or not names else names[0]


def class_text(value: FieldValue, options: FormatOptions) -> str:
    """A class, or several joined by the separator, in one line."""
    if isinstance(value, str):
        return to_one_line(value)
    return (options.label_separator or "#").join(to_one_line(item) for item in value if isinstance(item, str))


def to_one_line(text: str) -> str:
    """Text with blanks for what would end a line or a column."""
    return re.sub(r"[\t\r\n\x02]", " ", text)


def write_lines(path: Path, rows: Sequence[str]) -> None:
    """Writes a file of lines, and the directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(row + "\n" for row in rows), encoding="utf-8", newline="\n")

"""Example: what every file format is parsed into. Raw text and character spans; nothing is tokenized here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class LabelledSpan:
    """A half-open code-point range of the text with its label."""

    start: int
    end: int
    label: str
    role: str = ""
    group: str = ""


FieldValue: TypeAlias = str | tuple[str, ...] | tuple[LabelledSpan, ...]
"""A class, several classes, or spans. An empty tuple is a real value: no label applies, or the text holds no span."""


@dataclass(frozen=True, slots=True)
class Example:
    """One row of a data set. A field that is absent from `fields` is unlabelled: it adds no loss."""

    text: str
    fields: Mapping[str, FieldValue] = field(default_factory=dict)
    """Labels by field name (`intent`, `slots`, `label`); a task trains on one field."""
    pair: str | None = None
    """Second sentence, or the passage."""
    words: tuple[tuple[int, int], ...] | None = None
    """Ranges of the words (or characters) that the data was tagged on; None where spans were given in characters. Only span F1 uses them."""
    source: str = ""
    """`file:line`, for messages."""

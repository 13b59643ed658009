"""Example: the result of parsing any file format.

It holds raw text and character spans. Tokenization comes later.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from palm_serve.types import InputTexts, context_text


@dataclass(frozen=True, slots=True)
class LabelledSpan:
    """A labelled range of code points, from `start` up to but not including `end`."""

    start: int
    end: int
    label: str
    role: str = ""
    group: str = ""


FieldValue: TypeAlias = str | tuple[str, ...] | tuple[LabelledSpan, ...]
"""A class, several classes, or spans.

An empty tuple is a label too: no class applies, or the text has no span.
"""


@dataclass(frozen=True, slots=True)
class Context:
    """What was said before a text.

    Args:
        turns: earlier turns, the newest last.
        requested_slots: names of the slots that the system has just asked for.
    """

    turns: tuple[str, ...] = ()
    requested_slots: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Example:
    """One row of a data set.

    A field that is absent from `fields` is unlabelled and adds no loss.
    """

    text: str
    fields: Mapping[str, FieldValue] = field(default_factory=dict)
    """Labels by field name (`intent`, `slots`, `label`). A task trains on one field."""
    pair: str | None = None
    """Second text: a sentence or a passage."""
    words: tuple[tuple[int, int], ...] | None = None
    """Ranges of the words (or characters) that were tagged.

    None if spans were given in characters. Only span F1 uses them.
    """
    source: str = ""
    """`file:line`, for messages."""
    out_of_scope: bool = False
    """True for training text that belongs to no class. `classify` tasks learn to prefer none."""
    context: Context | None = None
    """What was said before the text. None: nothing is known of it."""

    @property
    def inputs(self) -> InputTexts:
        """Texts that a model reads."""
        context = self.context
        spoken = "" if context is None else context_text(context.turns, context.requested_slots)
        return InputTexts(self.text, self.pair, spoken)


def spans_in(value: FieldValue) -> list[LabelledSpan]:
    """Return the spans of a field; none if it holds classes."""
    spans = []
    for item in value:
        if isinstance(item, LabelledSpan):
            spans.append(item)
    return spans

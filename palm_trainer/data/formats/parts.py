"""Texts that are written in parts, some of them with the name of a slot: Dialogflow, Snips and templates."""

from collections.abc import Iterable
from typing import NamedTuple

from palm_trainer.data.example import LabelledSpan
from palm_trainer.data.formats.text_files import Defects
from palm_trainer.errors import DataError

BLANKS = "slot that begins or ends with a blank (its span is without)"
NO_VALUE = "slot without a value (passed over)"


class Part(NamedTuple):
    """A part of a text. A label that is not empty names the slot of which it is the value."""

    text: str
    label: str = ""
    role: str = ""


def join_parts(segments: Iterable[Part], source: str, defects: Defects) -> tuple[str, tuple[LabelledSpan, ...]]:
    """Join the parts of a text as they are written.

    Args:
        segments: the parts, in order.
        source: place of the text, for messages.
        defects: tally of values with blanks around.

    Returns:
        The text, and the spans of its slots, without blanks at their ends.

    Raises:
        DataError: the text has no character beside blanks.
    """
    texts = []
    spans = []
    length = 0
    for segment in segments:
        texts.append(segment.text)
        value = segment.text.strip()
        start = length + len(segment.text) - len(segment.text.lstrip())
        length += len(segment.text)
        if segment.label and not value:
            defects.add(NO_VALUE, source)
        elif segment.label:
            if value != segment.text:
                defects.add(BLANKS, source)
            spans.append(LabelledSpan(start, start + len(value), segment.label, segment.role))
    text = "".join(texts)
    if not text.strip():
        raise DataError(f"{source}: must hold a text with at least one character, got {text!r}. Remove it.")
    return text, tuple(spans)

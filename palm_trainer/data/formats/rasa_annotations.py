"""Annotations of entities in a text of Rasa's training data, read in linear time."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from palm_trainer.config.mappings import absent
from palm_trainer.data.example import LabelledSpan
from palm_trainer.data.formats.json_values import parse_json
from palm_trainer.data.formats.text_files import Defects
from palm_trainer.errors import DataError

_OPENING = ("(", "{", "\uff08", "\uff5b")
"""Brackets that a name stands in, and the wide ones of Chinese keyboards."""
_KEYS = ("entity", "role", "group", "value")
MORE_ENTITIES = "further entity on the same words (passed over)"
NO_TEXT = "value of an entity that is no string or number (passed over)"
UNCLOSED = "annotation of an entity that does not close (kept as plain text)"
UNOPENED = "end of an annotation without its `[` (kept as plain text)"
EMPTY = "annotation without a value or a name (kept as plain text)"
DETACHED = "annotation whose name follows after a blank or in other brackets (kept as plain text)"
NESTED = "annotation with a `[` in its value (read from the first `[`, as Rasa does)"


@dataclass(frozen=True, slots=True)
class _Annotation:
    """An annotated value and where it stands, with its name or its JSON."""

    start: int
    end: int
    value: str
    name: str = ""
    synonym: str = ""
    json: str = ""


class _Finder:
    """Finds segments of a text from growing positions, without looking at a character twice.

    Args:
        text: text to search.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._positions: dict[str, int] = {}
        """Last position found for each segment; the length of the text if there is no further one."""

    def find(self, segment: str, start: int) -> int:
        """Return the first position of a segment from `start`; the length of the text if there is none."""
        position = self._positions.get(segment, -1)
        if position < start:
            position = self._text.find(segment, start)
            if position < 0:
                position = len(self._text)
            self._positions[segment] = position
        return position


def read_entities(text: str, source: str, defects: Defects) -> tuple[str, tuple[LabelledSpan, ...]]:
    """Read a text with annotations.

    Args:
        text: annotated text.
        source: `file:line`, for messages.
        defects: tally of content that a span cannot hold.

    Returns:
        The text without annotations, and their spans.

    Raises:
        DataError: an annotation is malformed.
    """
    segments: list[str] = []
    spans: list[LabelledSpan] = []
    position = 0  # in the annotated text
    length = 0  # of the plain text
    faults: Counter[str] = Counter()
    for annotation in _annotations(text, faults):
        text_before = text[position : annotation.start]
        segments += [text_before, annotation.value]
        start = length + len(text_before)
        length = start + len(annotation.value)
        position = annotation.end
        entity = _entity(text, annotation, source, defects)
        span = entity_span(entity, start, length, source)
        spans.append(span)
        add_entity_value(entity, span.label, annotation.value, source, defects)
    segments.append(text[position:])
    for kind, count in (+faults).items():
        defects.add(kind, source, count)
    return "".join(segments), tuple(spans)


def _annotations(text: str, faults: Counter[str]) -> list[_Annotation]:
    """Find all annotations. A value reaches from the first `[` to the next `]`.

    Args:
        text: annotated text.
        faults: counts of brackets that are no whole annotation, added to in place.
    """
    finder = _Finder(text)
    annotations: list[_Annotation] = []
    position = 0
    while True:
        start = finder.find("[", position)
        for ending in ("](", "]{"):
            stray = finder.find(ending, position)
            while stray < start:
                faults[UNOPENED] += 1
                stray = finder.find(ending, stray + 1)
        value_end = finder.find("]", start)
        if value_end == len(text):
            faults[UNCLOSED] += start < len(text)
            return annotations
        annotation = _annotation(text, start, value_end, finder, faults)
        if annotation is not None:
            annotations.append(annotation)
        position = value_end + 1 if annotation is None else annotation.end


def _annotation(text: str, start: int, value_end: int, finder: _Finder, faults: Counter[str]) -> _Annotation | None:
    """Return the annotation of the value between two brackets; None if it is plain text."""
    suffix = value_end + 1
    if text.startswith("(", suffix):
        annotation = _named(text, start, value_end, finder)
    elif text.startswith("{", suffix):
        annotation = _with_json(text, start, value_end, finder.find("}", suffix), brackets=0)
    elif text.startswith("[{", suffix):
        end = finder.find("}]", suffix)
        if end >= finder.find("\n", suffix):
            end = len(text)
        annotation = _with_json(text, start, value_end, end, brackets=1)
    else:
        faults[DETACHED] += text[suffix : suffix + 2].lstrip().startswith(_OPENING)
        return None
    if annotation is None:
        faults[UNCLOSED] += 1
    elif not annotation.value or not (annotation.name or annotation.json):
        faults[EMPTY] += 1
        return None
    elif "[" in annotation.value:
        faults[NESTED] += 1
    return annotation


def _named(text: str, start: int, value_end: int, finder: _Finder) -> _Annotation | None:
    """Return an annotation `[value](name)`; None if its name does not end before another bracket opens."""
    suffix = value_end + 1
    end = finder.find(")", suffix)
    if end == len(text) or min(finder.find("[", suffix), finder.find("(", suffix + 1)) < end:
        return None
    name, _, synonym = text[suffix + 1 : end].partition(":")
    return _Annotation(start, end + 1, text[start + 1 : value_end], name=name, synonym=synonym)


def _with_json(text: str, start: int, value_end: int, end: int, *, brackets: int) -> _Annotation | None:
    """Return an annotation `[value]{...}`, or `[value][{...}]` with `brackets` = 1; None if its JSON has no end.

    Args:
        text: annotated text.
        start: position of its first bracket.
        value_end: position of the bracket after its value.
        end: position of the last `}`, the length of the text without one.
        brackets: number of brackets on each side of the JSON.
    """
    if end == len(text):
        return None
    json_text = text[value_end + 1 + brackets : end + 1]
    return _Annotation(start, end + 1 + brackets, text[start + 1 : value_end], json=json_text)


def add_entity_value(entity: dict[str, Any], slot: str, text: str, source: str, defects: Defects) -> None:
    """Keep the value of an entity, where it is another than its text.

    Args:
        entity: its keys.
        slot: its name.
        text: its text.
        source: place of the entity, for messages.
        defects: holds the values, and counts those that are no string or number.

    Raises:
        DataError: the text stands for another value already.
    """
    value = entity.get("value")
    if value in (None, text):
        return
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        defects.add(NO_TEXT, source)
        return
    defects.values.add_annotated(slot, text, str(value), source)


def entity_span(entity: dict[str, Any], start: int, end: int, source: str) -> LabelledSpan:
    """Return the span of an entity.

    Args:
        entity: its keys: `entity`, perhaps `role` and `group`.
        start: first code point.
        end: code point after the last.
        source: place of the entity, for messages.

    Raises:
        DataError: a name is no string or number, or there is none.
    """
    names = []
    for key in ("entity", "role", "group"):
        value = entity.get(key)
        if isinstance(value, bool) or not isinstance(value, str | int | None):
            raise DataError(
                f"{source}: `{key}` of an entity must be a string or whole number, got {value!r}; correct it"
            )
        names.append("" if value is None else str(value).strip())
    label, role, group = names
    if not label:
        raise DataError(f'{source}: an entity must have a name, got {entity!r}; add "entity": "NAME"')
    return LabelledSpan(start, end, label, role, group)


def _entity(text: str, annotation: _Annotation, source: str, defects: Defects) -> dict[str, Any]:
    """Return the keys of an annotation, with its name as `entity`."""
    if annotation.name:
        return {"entity": annotation.name.strip(), "value": annotation.synonym.strip() or None}
    written = text[annotation.start : annotation.end]
    subject = f"annotation {written!r}"
    entities: list[dict[str, Any]] = parse_json(f"[{annotation.json}]", source, "use double quotes", subject=subject)
    entity = entities[0]
    if not entity.get("entity"):
        raise DataError(f'{source}: annotation {written!r} names no entity; add "entity": "NAME"')
    if len(entities) > 1:
        defects.add(MORE_ENTITIES, source, len(entities) - 1)
    for name in absent(entity, _KEYS):
        defects.add(f"'{name}' of an entity (passed over)", source)
    return entity

"""Annotations of entities in a text of Rasa's training data, read in linear time."""

from dataclasses import dataclass
from typing import Any

from palm_trainer.config.mappings import absent
from palm_trainer.data.example import LabelledSpan
from palm_trainer.data.formats.json_values import parse_json
from palm_trainer.data.formats.text_files import Defects
from palm_trainer.errors import DataError

SYNONYM = "synonym given with an entity (passed over)"
_KEYS = ("entity", "role", "group", "value")
MORE_ENTITIES = "further entity on the same words (passed over)"


@dataclass(frozen=True, slots=True)
class _Annotation:
    """An annotated value and where it stands, with its name or its JSON."""

    start: int
    end: int
    value: str
    name: str = ""
    has_synonym: bool = False
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
    for annotation in _annotations(text):
        text_before = text[position : annotation.start]
        segments += [text_before, annotation.value]
        start = length + len(text_before)
        length = start + len(annotation.value)
        position = annotation.end
        spans.append(entity_span(_entity(text, annotation, source, defects), start, length, source))
    segments.append(text[position:])
    return "".join(segments), tuple(spans)


def _annotations(text: str) -> list[_Annotation]:
    """Find all annotations. A value reaches from the first `[` to the next `]`."""
    finder = _Finder(text)
    annotations: list[_Annotation] = []
    position = 0
    while True:
        start = finder.find("[", position)
        value_end = finder.find("]", start)
        if value_end == len(text):
            return annotations
        annotation = _annotation(text, start, value_end, finder) if value_end > start + 1 else None
        if annotation is not None:
            annotations.append(annotation)
        position = value_end + 1 if annotation is None else annotation.end


def _annotation(text: str, start: int, value_end: int, finder: _Finder) -> _Annotation | None:
    """Return the annotation of the value between two brackets; None if nothing that names an entity follows."""
    value = text[start + 1 : value_end]
    suffix = value_end + 1
    if text.startswith("(", suffix):
        end = finder.find(")", suffix)
        if end == len(text):
            return None
        name, colon, _ = text[suffix + 1 : end].partition(":")
        return _Annotation(start, end + 1, value, name=name, has_synonym=bool(colon)) if name else None
    if text.startswith("{", suffix):
        end = finder.find("}", suffix)
        if end < len(text):
            return _Annotation(start, end + 1, value, json=text[suffix : end + 1])
    if text.startswith("[{", suffix):
        end = finder.find("}]", suffix)
        if end < min(len(text), finder.find("\n", suffix)):
            return _Annotation(start, end + 2, value, json=text[suffix + 1 : end + 1])
    return None


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
        if isinstance(value, bool) or not isinstance(value, str | int | float | None):
            raise DataError(f"{source}: `{key}` of an entity must be a string, got {value!r}; correct it")
        names.append("" if value is None else str(value).strip())
    label, role, group = names
    if not label:
        raise DataError(f'{source}: an entity must have a name, got {entity!r}; add "entity": "NAME"')
    return LabelledSpan(start, end, label, role, group)


def _entity(text: str, annotation: _Annotation, source: str, defects: Defects) -> dict[str, Any]:
    """Return the keys of an annotation, with its name as `entity`."""
    if annotation.name:
        if annotation.has_synonym:
            defects.add(SYNONYM, source)
        return {"entity": annotation.name.strip()}
    written = text[annotation.start : annotation.end]
    subject = f"annotation {written!r}"
    entities: list[dict[str, Any]] = parse_json(f"[{annotation.json}]", source, "use double quotes", subject=subject)
    entity = entities[0]
    if not entity.get("entity"):
        raise DataError(f'{source}: annotation {written!r} names no entity; add "entity": "NAME"')
    if len(entities) > 1:
        defects.add(MORE_ENTITIES, source, len(entities) - 1)
    if entity.get("value") not in (None, annotation.value):
        defects.add(SYNONYM, source)
    for name in absent(entity, _KEYS):
        defects.add(f"'{name}' of an entity (passed over)", source)
    return entity

"""Rasa's old training data in JSON: `{"rasa_nlu_data": {"common_examples": [{"text", "intent", "entities"}]}}`."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from palm_trainer.config.mappings import absent
from palm_trainer.data.example import Example, FieldValue, LabelledSpan
from palm_trainer.data.formats.columns import NO_CLASS, unread_kind
from palm_trainer.data.formats.json_objects import JsonObject, as_object
from palm_trainer.data.formats.json_values import load_json
from palm_trainer.data.formats.rasa_annotations import add_entity_value, entity_span
from palm_trainer.data.formats.rasa_values import add_section_item
from palm_trainer.data.formats.row_values import check_range, separate_spans
from palm_trainer.data.formats.text_files import Defects
from palm_trainer.errors import DataError

ROOT = "rasa_nlu_data"
OTHER_FILE = "lookup table in another file (passed over; write its elements here)"
_EXAMPLES = ("common_examples", "intent_examples", "entity_examples")
_VALUE_LISTS = ("entity_synonyms", "regex_features", "lookup_tables")
_EXAMPLE_KEYS = ("text", "intent", "entities")
_ENTITY_KEYS = ("start", "end", "value", "entity", "role", "group")


def is_rasa_json(document: object) -> bool:
    """Return True for the content of a JSON file that holds Rasa's training data."""
    return isinstance(document, dict) and isinstance(document.get(ROOT), dict)


def parse_json_file(file: Path, defects: Defects) -> Iterator[Example]:
    """Yield the examples of a file.

    Args:
        file: file to read.
        defects: tally of content that is passed over.

    Raises:
        DataError: the file has another structure, or an entity is malformed.
    """
    document = load_json(file, defects)
    if not is_rasa_json(document):
        raise DataError(f"{file}: no object `{ROOT}`; Rasa's training data in JSON has one, set the right `format`")
    for name in absent(document, [ROOT]):
        defects.add(unread_kind(name), str(file))
    data = document[ROOT]
    _read_values(as_object(data, f"{file}: {ROOT}"), defects)
    for name in absent(data, (*_EXAMPLES, *_VALUE_LISTS)):
        if data[name]:
            defects.add(unread_kind(name), f"{file}: {ROOT}.{name}", len(_items(data[name])))
    for name in _EXAMPLES:
        rows = [] if data.get(name) is None else data[name]
        if not isinstance(rows, list):
            raise DataError(f"{file}: {name} must be a list, got {type(rows).__name__}; correct it")
        for number, row in enumerate(rows, 1):
            yield _example(row, f"{file}: {name} {number}", defects)


def _read_values(data: JsonObject, defects: Defects) -> None:
    """Keep synonyms, regular expressions and lookup tables.

    Raises:
        DataError: one has another structure, or a synonym stands for two values.
    """
    for row in data.objects("entity_synonyms"):
        row.note_unread(("value", "synonyms"), "a synonym", defects)
        for text in row.strings("synonyms"):
            add_section_item("synonym", row.given_name("value"), text, row.place, defects)
    for row in data.objects("regex_features"):
        row.note_unread(("name", "pattern"), "a regular expression", defects)
        add_section_item("regex", row.given_name("name"), row.text("pattern"), row.place, defects)
    for row in data.objects("lookup_tables"):
        row.note_unread(("name", "elements"), "a lookup table", defects)
        if isinstance(row.values.get("elements"), str):
            defects.add(OTHER_FILE, row.place)
            continue
        for text in row.strings("elements"):
            add_section_item("lookup", row.given_name("name"), text, row.place, defects)


def _items(value: Any) -> Sequence[Any]:
    """Return the elements of a list; any other value counts as one."""
    return value if isinstance(value, list) else [value]


def _example(row: Any, source: str, defects: Defects) -> Example:
    text = row.get("text") if isinstance(row, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{source}: `text` must be a string with at least one character, got {text!r}; correct it")
    _note_unread(row, _EXAMPLE_KEYS, source, defects)
    fields: dict[str, FieldValue] = {}
    intent = row.get("intent")
    if isinstance(intent, str) and intent.strip():
        fields["intent"] = intent.strip()
    elif intent in (None, ""):
        defects.add(NO_CLASS, source)
    else:
        raise DataError(f"{source}: `intent` must be a string, got {intent!r}; correct it")
    entities = [] if row.get("entities") is None else row["entities"]
    if not isinstance(entities, list) or not all(isinstance(entity, dict) for entity in entities):
        raise DataError(f"{source}: `entities` must be a list of objects, got {entities!r}; correct it")
    spans = []
    for number, entity in enumerate(entities, 1):
        spans.append(_span(entity, text, f"{source}: entity {number}", defects))
    fields["slots"] = separate_spans(spans, f"{source}: entities", defects)
    return Example(text, fields, source=source)


def _span(entity: dict[str, Any], text: str, source: str, defects: Defects) -> LabelledSpan:
    start = entity.get("start")
    end = entity.get("end")
    check_range(start, end, len(text), source)
    span = entity_span(entity, int(start or 0), int(end or 0), source)
    add_entity_value(entity, span.label, text[span.start : span.end], source, defects)
    _note_unread(entity, _ENTITY_KEYS, source, defects)
    return span


def _note_unread(row: dict[str, Any], keys: Sequence[str], source: str, defects: Defects) -> None:
    for name in absent(row, keys):
        if row[name] not in (None, "", [], {}):
            defects.add(unread_kind(name), source)

"""Wit.ai: an exported app (zip file or directory), or one of its files of utterances in JSON

Fields: `intent`, `slots`, and one for each trait.

Described at https://wit.ai/docs/http (utterances). An entity has `entity` (`name` or `name:role`), `start`, `end` and `body`; where the
offsets do not give the body in code points, they are tried in UTF-16 units and in bytes. The older form,
`{"data": [{"text", "entities": [{"entity", "value"}]}]}`, has the intent among the entities. The keywords of an app's entities say
what values stand for.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from palm_trainer.data.example import Example, FieldValue, LabelledSpan
from palm_trainer.data.formats.columns import NO_CLASS
from palm_trainer.data.formats.json_objects import JsonObject, as_object, objects_in
from palm_trainer.data.formats.json_values import load_json
from palm_trainer.data.formats.offsets import place_value
from palm_trainer.data.formats.project_files import FURTHER_FILE, ProjectFiles
from palm_trainer.data.formats.row_values import check_range, separate_spans
from palm_trainer.data.formats.text_files import Defects, FormatOptions
from palm_trainer.errors import DataError

_INTENT = "intent"
_SLOTS = "slots"
_BUILT_IN = "wit$"
OTHER_VALUE = "value of an entity that depends on the time, or is no string (passed over)"
_LISTS = ("utterances", "data")
_FILES = re.compile(r"(?:.*/)?(?:utterances/[^/]+|expressions)\.json")
_ENTITIES = re.compile(r"(?:.*/)?entities/[^/]+\.json")
_DECLARED_KEYS = ("name", "id", "roles", "lookups", "keywords", "values", "builtin", "doc", "lang", "exotic")
_ENTITY_KEYS = ("entity", "start", "end", "body", "role", "value")


def is_wit(document: object) -> bool:
    """Return True for the content of a file of utterances."""
    rows = document
    if isinstance(document, dict):
        rows = next((document[key] for key in _LISTS if key in document), None)
    first = rows[0] if isinstance(rows, list) and rows else None
    if not isinstance(first, dict) or "text" not in first or "paragraphs" in first:
        return False
    if isinstance(document, dict):
        return "utterances" in document or "entities" in first
    return "entities" in first and "traits" in first


def has_app(names: list[str]) -> bool:
    """Return True if files of a project are those of an app."""
    return any(name.endswith("app.json") for name in names) and any(map(_FILES.fullmatch, names))


def parse(path: Path, options: FormatOptions, defects: Defects) -> Iterator[Example]:
    """Yield the examples of a file, or of all files of utterances of an app.

    Args:
        path: directory, zip file or JSON file to read.
        options: not used.
        defects: tally of content that is passed over.

    Raises:
        DataError: it holds no utterances, or something else than Wit writes.
    """
    if not path.is_dir() and path.suffix.lower() != ".zip":
        yield from _document_examples(load_json(path, defects), str(path), defects)
        return
    files = ProjectFiles(path)
    names = set(filter(_FILES.fullmatch, files.names))
    if not names:
        raise DataError(f"{path}: no file utterances/NAME.json or expressions.json; give an exported app of Wit")
    for name in files.names:
        if name in names:
            yield from _document_examples(files.load(name, defects), files.place(name), defects)
        elif _ENTITIES.fullmatch(name):
            _add_keywords(files.load_object(name, defects), defects)
        else:
            defects.add(FURTHER_FILE, files.place(name))


def _add_keywords(content: JsonObject, defects: Defects) -> None:
    """Keep the keywords of an entity. The older form has `values` and `expressions` below `data`."""
    entity = content.child("data") if isinstance(content.values.get("data"), dict) else content
    entity.note_unread(_DECLARED_KEYS, "a Wit entity", defects)
    name = entity.given_name("name")
    for key, canonical, wordings in (("keywords", "keyword", "synonyms"), ("values", "value", "expressions")):
        for row in entity.objects(key):
            row.note_unread((canonical, wordings), "a keyword of a Wit entity", defects)
            synonyms = row.strings(wordings)
            defects.values.add_type_value(name, row.given_name(canonical), synonyms, row.place, is_said=False)
    defects.values.use_type(name, name)


def _document_examples(document: object, place: str, defects: Defects) -> Iterator[Example]:
    """Yield the examples of a file."""
    if isinstance(document, list):
        rows = objects_in(document, f"{place}: utterance")
    else:
        content = as_object(document, place)
        key = next(filter(content.values.__contains__, _LISTS), _LISTS[0])
        if not isinstance(content.values.get(key), list):
            raise content.fault(key, "a list")
        content.note_unread((key,), "a Wit file", defects)
        rows = content.objects(key)
    for row in rows:
        yield _example(row, defects)


def _example(row: JsonObject, defects: Defects) -> Example:
    row.note_unread(("text", _INTENT, "entities", "traits"), "a Wit utterance", defects)
    text = row.text("text")
    fields: dict[str, FieldValue] = {}
    is_object = isinstance(row.values.get(_INTENT), dict)
    intent = row.child(_INTENT).given_name("name") if is_object else row.name(_INTENT)
    for trait in row.objects("traits"):
        trait.note_unread(("trait", "name", "value", "id"), "a Wit trait", defects)
        name = trait.name("trait") or trait.given_name("name")
        if name in (_INTENT, _SLOTS) or name in fields:
            raise trait.fault("trait", f"another name than {_INTENT} and {_SLOTS}, once in an utterance")
        fields[name] = trait.given_name("value")
    spans = []
    for entity in row.objects("entities"):
        label, _, role = entity.given_name("entity").partition(":")
        if label == _INTENT and "start" not in entity.values and not intent:
            intent = _unquoted(entity.given_name("value"))
            continue
        entity.note_unread(_ENTITY_KEYS, "a Wit entity", defects)
        start, end = _range(entity, text, defects)
        _add_value(entity, label, text[start:end], defects)
        role = entity.name("role") or role
        spans.append(LabelledSpan(start, end, label, "" if role == label.removeprefix(_BUILT_IN) else role))
    if intent:
        fields = {_INTENT: intent, **fields}
    else:
        defects.add(NO_CLASS, row.place)
    fields[_SLOTS] = separate_spans(spans, f"{row.place}: entities", defects)
    return Example(text, fields, source=row.place)


def _range(entity: JsonObject, text: str, defects: Defects) -> tuple[int, int]:
    """Return the range of an entity in code points."""
    start = entity.whole_number("start")
    end = entity.whole_number("end")
    if entity.values.get("body") is not None:
        start, end = place_value(text, start, end, entity.string("body"), entity.place, defects)
    check_range(start, end, len(text), entity.place)
    return start, end


def _add_value(entity: JsonObject, label: str, text: str, defects: Defects) -> None:
    """Keep what the text of an entity stands for. Values of built-in entities depend on the time, and are counted."""
    value = entity.values.get("value")
    if value is None or (isinstance(value, str) and _unquoted(value) == text):
        return
    if isinstance(value, str) and not label.startswith(_BUILT_IN):
        defects.values.add_annotated(label, text, _unquoted(value), entity.place)
    else:
        defects.add(OTHER_VALUE, entity.place)


def _unquoted(value: str) -> str:
    """Return a value of the older form without its quotes."""
    return value[1:-1] if len(value) > 2 and value[0] == value[-1] == '"' else value

"""LUIS: an exported app in JSON, `{"luis_schema_version", "utterances": [{"text", "intent", "entities"}]}`

Fields: `intent`, `slots`.

Described at https://learn.microsoft.com/azure/ai-services/luis/app-schema-definition. An entity has `entity`, `startPos`
and `endPos` (UTF-16 units, the last one included), perhaps `role` and `children`, which become spans of their own. Closed lists
and regular expressions say what values stand for: those of the slot of their name, and lists also of entities that name them as a
feature. Patterns and phrase lists are counted as passed over.
"""

from collections.abc import Iterator
from pathlib import Path

from palm_trainer.data.example import Example, FieldValue, LabelledSpan
from palm_trainer.data.formats.json_objects import JsonObject, load_object
from palm_trainer.data.formats.offsets import from_utf16
from palm_trainer.data.formats.row_values import separate_spans
from palm_trainer.data.formats.text_files import Defects, FormatOptions

_HEADER = ("luis_schema_version", "versionId", "name", "desc", "culture", "tokenizerVersion", "utterances", "settings")
_DECLARATIONS = ("intents", "entities", "hierarchicals", "composites", "prebuiltEntities")
"""Lists of names, which the utterances repeat where they are used."""
_VALUES = ("closedLists", "regex_entities")
_MOST_LEVELS = 20


def is_luis(document: object) -> bool:
    """Return True for the content of an exported app."""
    if not isinstance(document, dict) or not isinstance(document.get("utterances"), list):
        return False
    if "luis_schema_version" in document:
        return True
    rows = document["utterances"]
    first = rows[0] if rows and isinstance(rows[0], dict) else {}
    entities = first.get("entities")
    names_start = isinstance(entities, list) and (
        not entities or (isinstance(entities[0], dict) and "startPos" in entities[0])
    )
    return {"text", "intent"} <= set(first) and names_start and "traits" not in first


def parse(path: Path, options: FormatOptions, defects: Defects) -> Iterator[Example]:
    """Yield the examples of a file, one for each utterance.

    Args:
        path: file to read.
        options: not used.
        defects: tally of content that is passed over.

    Raises:
        DataError: the file has another structure, or an entity is no range of its text.
    """
    app = load_object(path, "an exported app of LUIS", defects)
    if not isinstance(app.values.get("utterances"), list):
        raise app.fault("utterances", "a list")
    app.note_unread((*_HEADER, *_DECLARATIONS, *_VALUES), "a LUIS app", defects)
    _add_values(app, defects)
    for row in app.objects("utterances"):
        yield _example(row, defects)


def _add_values(app: JsonObject, defects: Defects) -> None:
    """Keep the values of closed lists and regular expressions."""
    lists = set()
    for closed_list in app.objects("closedLists"):
        closed_list.note_unread(("name", "subLists", "roles"), "a closed list of LUIS", defects)
        name = closed_list.given_name("name")
        lists.add(name)
        defects.values.use_type(name, name)
        for row in closed_list.objects("subLists"):
            row.note_unread(("canonicalForm", "list"), "a value of a closed list of LUIS", defects)
            defects.values.add_type_value(name, row.given_name("canonicalForm"), row.strings("list"), row.place)
    for entity in app.objects("regex_entities"):
        entity.note_unread(("name", "regexPattern", "roles"), "a regular expression of LUIS", defects)
        name = entity.given_name("name")
        defects.values.use_type(name, name)
        defects.values.add_type_pattern(name, entity.text("regexPattern"), entity.place)
    _use_lists(app, "entities", lists, 0, defects)


def _use_lists(owner: JsonObject, key: str, lists: set[str], level: int, defects: Defects) -> None:
    """Say which entities have a closed list as a feature: those of an app, or the children of an entity."""
    if level > _MOST_LEVELS:
        raise owner.fault(key, f"nested at most {_MOST_LEVELS} levels deep")
    for entity in owner.objects(key):
        for feature in entity.objects("features"):
            if feature.name("modelName") in lists:
                defects.values.use_type(entity.given_name("name"), feature.name("modelName"))
        _use_lists(entity, "children", lists, level + 1, defects)


def _example(row: JsonObject, defects: Defects) -> Example:
    row.note_unread(("text", "intent", "entities"), "a LUIS utterance", defects)
    text = row.text("text")
    fields: dict[str, FieldValue] = {}
    intent = row.class_name("intent", defects)
    if intent:
        fields["intent"] = intent
    spans = list(_spans(row, "entities", text, 0, defects))
    fields["slots"] = separate_spans(spans, f"{row.place}: entities", defects)
    return Example(text, fields, source=row.place)


def _spans(owner: JsonObject, key: str, text: str, level: int, defects: Defects) -> Iterator[LabelledSpan]:
    """Yield the spans of the entities of an utterance, or of the children of an entity."""
    if level > _MOST_LEVELS:
        raise owner.fault(key, f"nested at most {_MOST_LEVELS} levels deep")
    for entity in owner.objects(key):
        entity.note_unread(("entity", "startPos", "endPos", "role", "children"), "a LUIS entity", defects)
        start = entity.whole_number("startPos")
        end = entity.whole_number("endPos") + 1
        start, end = from_utf16(text, start, end, entity.place)
        yield LabelledSpan(start, end, entity.given_name("entity"), entity.name("role"))
        yield from _spans(entity, "children", text, level + 1, defects)

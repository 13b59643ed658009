"""Snips NLU: a data set in JSON, `{"intents": {NAME: {"utterances"}}, "entities"}`, or `{NAME: [utterance, ...]}`

Fields: `intent`, `slots`.

Described at https://snips-nlu.readthedocs.io/en/latest/dataset.html. The parts of an utterance are joined as they are; the label of a
span is the `slot_name` of its part, else its `entity`. A part with a slot and without a text is written out with the values of its
entity. The second form is that of the SNIPS benchmark, one intent a file.
"""

from collections.abc import Iterator
from pathlib import Path

from palm_trainer.data.example import Example
from palm_trainer.data.formats.json_objects import JsonObject, as_object, load_object
from palm_trainer.data.formats.templates import Slot, SlotValues
from palm_trainer.data.formats.text_files import Defects, FormatOptions

_UTTERANCES = "utterances"


def is_snips(document: object) -> bool:
    """Return True for the content of a data set, or of a file of the benchmark."""
    if not isinstance(document, dict):
        return False
    intents = document.get("intents")
    if isinstance(intents, dict):
        return any(isinstance(intent, dict) and _has_parts(intent.get(_UTTERANCES)) for intent in intents.values())
    return any(map(_has_parts, document.values()))


def _has_parts(rows: object) -> bool:
    """Return True for utterances in parts."""
    first = rows[0] if isinstance(rows, list) and rows else None
    segments = first.get("data") if isinstance(first, dict) else None
    return isinstance(segments, list) and bool(segments) and isinstance(segments[0], dict) and "text" in segments[0]


def parse(path: Path, options: FormatOptions, defects: Defects) -> Iterator[Example]:
    """Yield the examples of all intents.

    Args:
        path: file to read.
        options: not used.
        defects: tally of content that is passed over.

    Raises:
        DataError: the file has another structure.
    """
    document = load_object(path, "a data set of Snips NLU", defects)
    if not isinstance(document.values.get("intents"), dict):
        if not document.values:
            raise document.fault("intents", "an object")
        for name in document.values:
            if not isinstance(document.values[name], list):
                raise document.fault(name, "a list of utterances")
            yield from _examples(name, document, name, SlotValues({}), defects)
        return
    document.note_unread(("intents", "entities", "language"), "a Snips data set", defects)
    entities = document.child("entities")
    values = {}
    for name in entities.values:
        values[name] = list(_values(name, entities.child(name), defects))
    slot_values = SlotValues(values)
    intents = document.child("intents")
    for name in intents.values:
        intent = as_object(intents.values[name], f"{intents.place}.{name}")
        intent.note_unread((_UTTERANCES,), "a Snips intent", defects)
        yield from _examples(name, intent, _UTTERANCES, slot_values, defects)
    slot_values.note_unused(entities.place, defects)


def _values(name: str, entity: JsonObject, defects: Defects) -> Iterator[str]:
    """Yield the values of an entity, with their synonyms."""
    switches = ("data", "use_synonyms", "automatically_extensible", "matching_strictness", "parser_threshold")
    entity.note_unread(switches, "a Snips entity", defects)
    for row in entity.objects("data"):
        row.note_unread(("value", "synonyms"), "a value of a Snips entity", defects)
        yield row.given_name("value")
        defects.values.add_type_value(name, row.given_name("value"), row.strings("synonyms"), row.place)
        for synonym in row.strings("synonyms"):
            if synonym.strip():
                yield synonym.strip()


def _examples(intent: str, owner: JsonObject, key: str, values: SlotValues, defects: Defects) -> Iterator[Example]:
    """Yield the examples of the utterances of an intent, which a key of an object holds."""
    for row in owner.objects(key):
        row.note_unread(("data",), "a Snips utterance", defects)
        template: list[str | Slot] = []
        for segment in row.objects("data"):
            slot = segment.name("slot_name")
            entity = segment.name("entity")
            read = (
                ("text", "slot_name", "entity") if not slot or not segment.values.get("text") else ("text", "slot_name")
            )
            segment.note_unread(read, "a part with a slot", defects)
            label = slot or entity
            if label and entity:
                defects.values.use_type(label, entity)
            text = segment.string("text") if not label or segment.values.get("text") is not None else ""
            template.append(Slot(label, entity, text) if label else text)
        for text, spans in values.rows(template, row.place, defects):
            yield Example(text, {"intent": intent, "slots": spans}, source=row.place)

"""Alexa: an interaction model in JSON, `{"interactionModel": {"languageModel": {"intents", "types"}}}`

Fields: `intent`, `slots`.

Described at https://developer.amazon.com/docs/alexa/smapi/interaction-model-schema.html. Samples are templates
(`fly to {city}`) that are written out with the values and synonyms of the slots' types. Built-in types have no values in the file, so
that templates with them are left out and counted, unless the type is extended there. `{Rome|city}` gives the value itself.
"""

from collections.abc import Iterator
from pathlib import Path

from palm_trainer.data.example import Example
from palm_trainer.data.formats.json_objects import JsonObject, load_object
from palm_trainer.data.formats.lex import NO_SAMPLES
from palm_trainer.data.formats.templates import SlotValues, read_braces
from palm_trainer.data.formats.text_files import Defects, FormatOptions

_ROOT = "interactionModel"
_MODEL = "languageModel"
_INTENT_KEYS = ("name", "slots", "samples")
_SLOT_KEYS = ("name", "type")


def is_alexa(document: object) -> bool:
    """Return True for the content of an interaction model."""
    if not isinstance(document, dict):
        return False
    root = document.get(_ROOT, document)
    model = root.get(_MODEL) if isinstance(root, dict) else None
    return isinstance(model, dict) and isinstance(model.get("intents"), list)


def parse(path: Path, options: FormatOptions, defects: Defects) -> Iterator[Example]:
    """Yield the examples of all intents, one for each row of a sample.

    Args:
        path: file to read.
        options: not used.
        defects: tally of content that is passed over.

    Raises:
        DataError: the file has another structure.
    """
    document = load_object(path, "an interaction model of Alexa", defects)
    root = document
    if _ROOT in document.values:
        document.note_unread((_ROOT, "version"), "an Alexa file", defects)
        root = document.child(_ROOT)
    root.note_unread((_MODEL, "version"), "an interaction model", defects)
    model = root.child(_MODEL)
    if not isinstance(model.values.get("intents"), list):
        raise model.fault("intents", "a list")
    model.note_unread(("invocationName", "intents", "types"), "a language model", defects)
    values: dict[str, list[str]] = {}
    for slot_type in model.objects("types"):
        slot_type.note_unread(("name", "values"), "an Alexa slot type", defects)
        values.setdefault(slot_type.given_name("name"), []).extend(_values(slot_type, defects))
    slot_values = SlotValues(values)
    for intent in model.objects("intents"):
        yield from _intent_examples(intent, slot_values, defects)
    slot_values.note_unused(str(path), defects)


def _values(slot_type: JsonObject, defects: Defects) -> Iterator[str]:
    """Yield the values of a slot type, with their synonyms."""
    for row in slot_type.objects("values"):
        row.note_unread(("id", "name"), "a value of an Alexa slot type", defects)
        name = row.child("name")
        name.note_unread(("value", "synonyms"), "a value of an Alexa slot type", defects)
        value = name.given_name("value")
        yield value
        defects.values.add_type_value(slot_type.given_name("name"), value, name.strings("synonyms"), name.place)
        for synonym in name.strings("synonyms"):
            if synonym.strip():
                yield synonym.strip()


def _intent_examples(intent: JsonObject, values: SlotValues, defects: Defects) -> Iterator[Example]:
    """Yield the examples of an intent."""
    intent.note_unread(_INTENT_KEYS, "an Alexa intent", defects)
    name = intent.given_name("name")
    types = {}
    for slot in intent.objects("slots"):
        slot.note_unread(_SLOT_KEYS, "an Alexa slot", defects)
        types[slot.given_name("name")] = slot.given_name("type")
        defects.values.use_type(slot.given_name("name"), slot.given_name("type"))
    samples = intent.strings("samples")
    if not samples:
        defects.add(NO_SAMPLES, intent.place)
    for number, sample in enumerate(samples, 1):
        source = f"{intent.place}: samples {number}"
        template = read_braces(sample, types, source, defects)
        for text, spans in [] if template is None else values.rows(template, source, defects):
            yield Example(text, {"intent": name, "slots": spans}, source=source)

"""Amazon Lex V2: an exported bot or locale of a bot (zip file or directory)

Fields: `intent`, `slots`.

Described at https://docs.aws.amazon.com/lexv2/latest/dg/import-export-format.html. Sample utterances are templates
(`fly to {city}`) that are written out with the values and synonyms of the slots' types. Built-in types have no values in the file, so
that templates with them are left out and counted. All locales are read.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from palm_trainer.data.example import Example
from palm_trainer.data.formats.json_objects import JsonObject
from palm_trainer.data.formats.project_files import FURTHER_FILE, ProjectFiles
from palm_trainer.data.formats.templates import SlotValues, read_braces
from palm_trainer.data.formats.text_files import Defects, FormatOptions
from palm_trainer.errors import DataError

NO_SAMPLES = "intent without sample utterances (passed over)"
_INTENT = re.compile(r"(?P<locale>(?:.*/)?)Intents/(?P<intent>[^/]+)/Intent\.json")
_SLOT = re.compile(r"(?P<intent>(?:.*/)?Intents/[^/]+)/Slots/[^/]+/Slot\.json")
_SLOT_TYPE = re.compile(r"(?P<locale>(?:.*/)?)SlotTypes/[^/]+/SlotType\.json")
_INTENT_KEYS = ("name", "identifier", "description", "parentIntentSignature", "sampleUtterances", "slotPriorities")
_SLOT_KEYS = ("name", "identifier", "description", "slotTypeName")
_SLOT_TYPE_KEYS = ("name", "identifier", "description", "slotTypeValues", "parentSlotTypeSignature")


def has_bot(names: list[str]) -> bool:
    """Return True if files of a project are those of a bot."""
    return any(map(_INTENT.fullmatch, names))


def parse(path: Path, options: FormatOptions, defects: Defects) -> Iterator[Example]:
    """Yield the examples of all intents, one for each row of a sample utterance.

    Args:
        path: directory or zip file to read.
        options: not used.
        defects: tally of content that is passed over.

    Raises:
        DataError: it holds no intents, or something else than Lex writes.
    """
    files = ProjectFiles(path)
    intents: dict[str, list[str]] = {}
    """Files of the intents of each locale."""
    types_by_intent: dict[str, dict[str, str]] = {}
    values_by_locale: dict[str, dict[str, list[str]]] = {}
    for name in files.names:
        intent = _INTENT.fullmatch(name)
        slot = _SLOT.fullmatch(name)
        slot_type = _SLOT_TYPE.fullmatch(name)
        if intent:
            intents.setdefault(intent["locale"], []).append(name)
        elif slot:
            declared = files.load_object(name, defects)
            declared.note_unread(_SLOT_KEYS, "a Lex slot", defects)
            types = types_by_intent.setdefault(slot["intent"], {})
            types[declared.given_name("name")] = declared.given_name("slotTypeName")
            defects.values.use_type(declared.given_name("name"), declared.given_name("slotTypeName"))
        elif slot_type:
            type_name, values = _slot_type(files.load_object(name, defects), defects)
            values_by_locale.setdefault(slot_type["locale"], {})[type_name] = values
        else:
            defects.add(FURTHER_FILE, files.place(name))
    if not intents:
        raise DataError(f"{path}: no file Intents/NAME/Intent.json; give an exported bot of Lex V2")
    for locale, names in intents.items():
        slot_values = SlotValues(values_by_locale.get(locale, {}))
        for name in names:
            types = types_by_intent.get(name.removesuffix("/Intent.json"), {})
            yield from _intent_examples(files.load_object(name, defects), types, slot_values, defects)
        slot_values.note_unused(f"{path}/{locale}", defects)


def _slot_type(slot_type: JsonObject, defects: Defects) -> tuple[str, list[str]]:
    """Return name and values of a slot type, with their synonyms."""
    slot_type.note_unread(_SLOT_TYPE_KEYS, "a Lex slot type", defects)
    values = []
    for row in slot_type.objects("slotTypeValues"):
        row.note_unread(("sampleValue", "synonyms"), "a value of a Lex slot type", defects)
        wordings = []
        for item in (row.child("sampleValue"), *row.objects("synonyms")):
            item.note_unread(("value",), "a value of a Lex slot type", defects)
            wordings.append(item.given_name("value"))
        values += wordings
        defects.values.add_type_value(slot_type.given_name("name"), wordings[0], wordings[1:], row.place)
    return slot_type.given_name("name"), values


def _intent_examples(
    intent: JsonObject, types: dict[str, str], values: SlotValues, defects: Defects
) -> Iterator[Example]:
    """Yield the examples of an intent."""
    intent.note_unread(_INTENT_KEYS, "a Lex intent", defects)
    name = intent.given_name("name")
    is_empty = True
    for sample in intent.objects("sampleUtterances"):
        is_empty = False
        sample.note_unread(("utterance",), "a Lex utterance", defects)
        template = read_braces(sample.text("utterance"), types, sample.place, defects)
        for text, spans in [] if template is None else values.rows(template, sample.place, defects):
            yield Example(text, {"intent": name, "slots": spans}, source=sample.place)
    if is_empty:
        defects.add(NO_SAMPLES, intent.place)

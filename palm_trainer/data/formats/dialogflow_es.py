"""Dialogflow ES: an exported agent (zip file or directory), or one file `INTENT_usersays_LANGUAGE.json`

Fields: `intent`, `slots`.

Described at https://cloud.google.com/dialogflow/es/docs/agents-settings (export) and
https://cloud.google.com/dialogflow/es/docs/reference/rest/v2/projects.agent.intents (training phrases). The parts of a phrase
are joined as they are; a part's `alias` (the parameter) is the label of its span, `meta` its entity type. Phrases of the old
template mode (`@city:to`) are written out with the entries of the agent's entities. These entries also say what the values of
slots with the entity stand for. All languages are read.
"""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from palm_trainer.data.example import Example
from palm_trainer.data.formats.json_objects import JsonObject, as_object, objects_in
from palm_trainer.data.formats.json_values import load_json
from palm_trainer.data.formats.parts import Part, join_parts
from palm_trainer.data.formats.project_files import FURTHER_FILE, ProjectFiles
from palm_trainer.data.formats.templates import Slot, SlotValues
from palm_trainer.data.formats.text_files import Defects, FormatOptions
from palm_trainer.errors import DataError

FALLBACK = "phrase of a fallback intent (read as its class)"
REPEATS = "number of times that a phrase was added (passed over)"
IGNORED = "part marked @sys.ignore (read as text)"
_PHRASES = re.compile(r"(?P<intent>(?:.*/)?[^/]+)_usersays_(?P<language>[A-Za-z0-9-]+)\.json")
_ENTRIES = re.compile(r"(?:.*/)?(?P<entity>[^/]+)_entries_[A-Za-z0-9-]+\.json")
_ENTITY = re.compile(r"(?:.*/)?entities/(?P<entity>[^/]+)\.json")
NAMES_ENTITY = "value of an entity that names another entity (passed over as a value)"
_NAMED_ENTITY = re.compile(r"(?<!\w)@[\w.-]+")
_TEMPLATE_SLOT = re.compile(r"@([\w.-]+):([\w.-]+)")
_INTENT_KEYS = (
    *("id", "name", "auto", "priority", "webhookUsed", "webhookForSlotFilling", "fallbackIntent", "lastUpdate"),
    *("userSays", "templates", "parentId", "rootParentId", "isFallback", "cortanaCommand", "endInteraction"),
)
_ENTITY_KEYS = (
    *("id", "name", "isOverridable", "isEnum", "isRegexp", "automatedExpansion", "allowFuzzyExtraction", "entries"),
)
_PHRASE_KEYS = ("id", "data", "isTemplate", "count", "updated", "lang", "isAuto")
_PART_KEYS = ("text", "alias", "userDefined")


def is_dialogflow_es(document: object) -> bool:
    """Return True for the phrases of an intent, or an intent of the oldest exports, which holds them."""
    if isinstance(document, dict):
        return isinstance(document.get("userSays"), list) and "name" in document
    first = document[0] if isinstance(document, list) and document else None
    if not isinstance(first, dict) or not isinstance(first.get("data"), list):
        return False
    return "isTemplate" in first or (
        bool(first["data"]) and isinstance(first["data"][0], dict) and "text" in first["data"][0]
    )


def has_agent(names: list[str]) -> bool:
    """Return True if files of a project are those of an agent."""
    return any(_PHRASES.fullmatch(name) and name.count("/") <= 1 for name in names)


def parse(path: Path, options: FormatOptions, defects: Defects) -> Iterator[Example]:
    """Yield the examples of all intents of an agent, or those of one file.

    Args:
        path: directory, zip file or JSON file to read.
        options: not used.
        defects: tally of content that is passed over.

    Raises:
        DataError: it holds no training phrases, or something else than Dialogflow writes.
    """
    if path.is_dir() or path.suffix.lower() == ".zip":
        yield from _agent(ProjectFiles(path), path, defects)
        return
    document = load_json(path, defects)
    if isinstance(document, dict):
        intent = as_object(document, str(path))
        if not isinstance(document.get("userSays"), list):
            raise intent.fault("userSays", "a list")
        intent.note_unread(_INTENT_KEYS, "a Dialogflow intent", defects)
        name, is_fallback = _name_of(intent)
        yield from _phrases(intent.objects("userSays"), name, SlotValues({}), defects, is_fallback=is_fallback)
    elif isinstance(document, list):
        match = _PHRASES.fullmatch(path.name)
        name = match["intent"] if match else path.stem
        yield from _phrases(objects_in(document, f"{path}: phrase"), name, SlotValues({}), defects, is_fallback=False)
    else:
        raise DataError(
            f"{path}: must hold phrases of Dialogflow, got a JSON {type(document).__name__}. Set the right `format`."
        )


def _agent(files: ProjectFiles, path: Path, defects: Defects) -> Iterator[Example]:
    """Yield the examples of an agent."""
    entries: dict[str, list[str]] = {}
    phrase_files = []
    intents: dict[str, JsonObject] = {}
    entities = _entities(files, defects)
    for name in files.names:
        entry = _ENTRIES.fullmatch(name)
        entity = _ENTITY.fullmatch(name)
        if _PHRASES.fullmatch(name):
            phrase_files.append(name)
        elif entry:
            rows = files.load(name, defects)
            if not isinstance(rows, list):
                raise DataError(
                    f"{files.place(name)}: must hold a list of entries, got a JSON {type(rows).__name__}. Correct it."
                )
            is_pattern = entry["entity"] in entities and entities[entry["entity"]].flag("isRegexp")
            entry_rows = objects_in(rows, f"{files.place(name)}: entry")
            values_of_file = _entry_values(entry_rows, entry["entity"], defects, is_pattern=is_pattern)
            entries.setdefault(entry["entity"], []).extend(values_of_file)
        elif entity:
            declared = entities[entity["entity"]]
            entry_rows = declared.objects("entries")
            values_of_file = _entry_values(entry_rows, entity["entity"], defects, is_pattern=declared.flag("isRegexp"))
            entries.setdefault(entity["entity"], []).extend(values_of_file)
        elif PurePosixPath(name).parent.name == "intents":
            intents[name.removesuffix(".json")] = files.load_object(name, defects)
        else:
            defects.add(FURTHER_FILE, files.place(name))
    if not phrase_files and not any("userSays" in intent.values for intent in intents.values()):
        raise DataError(f"{path}: no file INTENT_usersays_LANGUAGE.json; give an exported agent of Dialogflow ES")
    values = SlotValues(entries)
    for intent in intents.values():
        intent.note_unread(_INTENT_KEYS, "a Dialogflow intent", defects)
        name, is_fallback = _name_of(intent)
        yield from _phrases(intent.objects("userSays"), name, values, defects, is_fallback=is_fallback)
    for file in phrase_files:
        match = _PHRASES.fullmatch(file)
        assert match is not None
        known_intent = intents.get(match["intent"])
        name, is_fallback = _name_of(known_intent) if known_intent else (PurePosixPath(match["intent"]).name, False)
        place = files.place(file)
        rows = files.load(file, defects)
        if not isinstance(rows, list):
            raise DataError(f"{place}: must hold a list of phrases, got a JSON {type(rows).__name__}. Correct it.")
        yield from _phrases(objects_in(rows, f"{place}: phrase"), name, values, defects, is_fallback=is_fallback)
    values.note_unused(str(path), defects)


def _name_of(intent: JsonObject) -> tuple[str, bool]:
    """Return the name of an intent, and True if it is a fallback."""
    return intent.given_name("name"), intent.flag("fallbackIntent") or intent.flag("isFallback")


def _entities(files: ProjectFiles, defects: Defects) -> dict[str, JsonObject]:
    """Return the entities of an agent by their names."""
    entities = {}
    for name in files.names:
        match = _ENTITY.fullmatch(name)
        if match and not _ENTRIES.fullmatch(name):
            entity = files.load_object(name, defects)
            entity.note_unread(_ENTITY_KEYS, "a Dialogflow entity", defects)
            entities[match["entity"]] = entity
    return entities


def _entry_values(entries: Iterator[JsonObject], entity: str, defects: Defects, *, is_pattern: bool) -> Iterator[str]:
    """Yield the values and synonyms of an entity, and keep what they stand for."""
    for entry in entries:
        entry.note_unread(("value", "synonyms"), "an entry of a Dialogflow entity", defects)
        value = entry.given_name("value")
        yield value
        synonyms = [synonym.strip() for synonym in entry.strings("synonyms") if synonym.strip()]
        yield from synonyms
        add_entry(entity, value, synonyms, entry.place, defects, is_pattern=is_pattern)


def add_entry(entity: str, value: str, synonyms: list[str], source: str, defects: Defects, *, is_pattern: bool) -> None:
    """Keep what the synonyms of an entry stand for. The value is a wording only where it is one of them, or has none.

    Args:
        entity: name of the entity type.
        value: the value of the entry.
        synonyms: its synonyms.
        source: place of the entry.
        defects: holds the values.
        is_pattern: the value is a regular expression.

    Raises:
        DataError: a synonym stands for two values.
    """
    defects.values.use_type(entity, entity)
    if is_pattern:
        defects.values.add_type_pattern(entity, value, source)
        return
    texts = [text for text in synonyms if not _NAMED_ENTITY.search(text)]
    if _NAMED_ENTITY.search(value) or (synonyms and not texts):
        defects.add(NAMES_ENTITY, source)
        return
    if len(texts) < len(synonyms):
        defects.add(NAMES_ENTITY, source, len(synonyms) - len(texts))
    defects.values.add_type_value(entity, value, texts, source, is_said=False)


def _phrases(
    rows: Iterator[JsonObject], intent: str, values: SlotValues, defects: Defects, *, is_fallback: bool
) -> Iterator[Example]:
    """Yield the examples of the phrases of an intent."""
    for row in rows:
        row.note_unread(_PHRASE_KEYS, "a Dialogflow phrase", defects)
        if row.values.get("count") is not None and row.whole_number("count") > 1:
            defects.add(REPEATS, row.place)
        if is_fallback:
            defects.add(FALLBACK, row.place)
        segments = list(_parts(row, defects))
        if row.flag("isTemplate"):
            template = _template("".join(segment.text for segment in segments))
            for item in template:
                if isinstance(item, Slot):
                    defects.values.use_type(item.label, item.type)
            for text, spans in values.rows(template, row.place, defects):
                yield Example(text, {"intent": intent, "slots": spans}, source=row.place)
        else:
            text, spans = join_parts(segments, row.place, defects)
            yield Example(text, {"intent": intent, "slots": spans}, source=row.place)


def _parts(row: JsonObject, defects: Defects) -> Iterator[Part]:
    """Yield the parts of a phrase."""
    for segment in row.objects("data"):
        text = segment.string("text")
        entity_type = segment.name("meta").removeprefix("@")
        if entity_type == "sys.ignore":
            defects.add(IGNORED, segment.place)
            yield Part(text)
            continue
        label = segment.name("alias") or entity_type
        if label and entity_type:
            defects.values.use_type(label, entity_type)
        read: tuple[Any, ...] = _PART_KEYS if segment.name("alias") else (*_PART_KEYS, "meta")
        segment.note_unread(read, "a part with an alias" if label else "a part", defects)
        yield Part(text, label)


def _template(text: str) -> list[str | Slot]:
    """Read a phrase of the template mode, `fly to @city:to`."""
    template: list[str | Slot] = []
    position = 0
    for match in _TEMPLATE_SLOT.finditer(text):
        template += [text[position : match.start()], Slot(match[2], match[1])]
        position = match.end()
    return [*template, text[position:]]

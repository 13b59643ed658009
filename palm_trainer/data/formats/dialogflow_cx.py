"""Dialogflow CX: an exported agent in JSON (zip file or directory), or a file with intents as its API returns them

Fields: `intent`, `slots`.

Described at https://cloud.google.com/dialogflow/cx/docs/reference/json-export and
https://cloud.google.com/dialogflow/cx/docs/reference/rest/v3/projects.locations.agents.intents. The parts of a phrase are
joined as they are; a part's `parameterId` is the label of its span. Entity types say what the values of the parameters with
them stand for. All languages are read.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from palm_trainer.data.example import Example
from palm_trainer.data.formats.dialogflow_es import FALLBACK, REPEATS, add_entry
from palm_trainer.data.formats.json_objects import JsonObject, as_object, objects_in
from palm_trainer.data.formats.json_values import load_json
from palm_trainer.data.formats.parts import Part, join_parts
from palm_trainer.data.formats.project_files import FURTHER_FILE, ProjectFiles
from palm_trainer.data.formats.text_files import Defects, FormatOptions
from palm_trainer.errors import DataError

_PHRASES = re.compile(r"(?P<folder>(?:.*/)?(?P<intent>[^/]+))/trainingPhrases/[A-Za-z0-9-]+\.json")
_ENTITY_TYPE = re.compile(r"(?:.*/)?entityTypes/(?P<type>[^/]+)/(?P=type)\.json")
_ENTITIES = re.compile(r"(?:.*/)?entityTypes/(?P<type>[^/]+)/entities/[A-Za-z0-9-]+\.json")
_INTENT_KEYS = (
    *("name", "displayName", "priority", "isFallback", "description", "numTrainingPhrases", "trainingPhrases"),
    *("createTime", "updateTime", "parameters"),
)
_PARAMETER_KEYS = ("id", "entityType", "isList", "redact")
_TYPE_KEYS = (
    *("name", "displayName", "kind", "autoExpansionMode", "enableFuzzyExtraction", "redact", "entities"),
    *("createTime", "updateTime"),
)
_PHRASE_KEYS = ("id", "parts", "repeatCount", "languageCode", "type")
_PART_KEYS = ("text", "auto", "parameterId", "alias", "userDefined")


def is_dialogflow_cx(document: object) -> bool:
    """Return True for an intent with its phrases, or a list of such intents, as the API returns them."""
    if isinstance(document, dict) and isinstance(document.get("intents"), list):
        document = document["intents"]
    first = document[0] if isinstance(document, list) and document else document
    if not isinstance(first, dict):
        return False
    return "displayName" in first and isinstance(first.get("trainingPhrases"), list)


def has_agent(names: list[str]) -> bool:
    """Return True if files of a project are those of an agent."""
    return any(_PHRASES.fullmatch(name) and name.count("/") <= 3 for name in names)


def parse(path: Path, options: FormatOptions, defects: Defects) -> Iterator[Example]:
    """Yield the examples of all intents.

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
    if isinstance(document, list):
        intents = objects_in(document, f"{path}: intent")
    else:
        content = as_object(document, str(path))
        if "trainingPhrases" in content.values:
            intents = iter([content])
        elif isinstance(content.values.get("intents"), list):
            content.note_unread(("intents",), "a list of intents", defects)
            intents = content.objects("intents")
        else:
            raise content.fault("intents", "a list")
    for intent in intents:
        yield from _intent_examples(intent, intent, defects)


def _agent(files: ProjectFiles, path: Path, defects: Defects) -> Iterator[Example]:
    """Yield the examples of an agent."""
    phrase_files = {}
    for name in files.names:
        match = _PHRASES.fullmatch(name)
        if match:
            phrase_files[name] = f"{match['folder']}/{match['intent']}.json"
    if not phrase_files:
        raise DataError(
            f"{path}: no file intents/NAME/trainingPhrases/LANGUAGE.json; give an exported agent of Dialogflow CX"
        )
    types = _entity_types(files, defects)
    intents: dict[str, JsonObject] = {}
    intent_files = set(phrase_files.values())
    for name in files.names:
        entities = _ENTITIES.fullmatch(name)
        if name in intent_files:
            intents[name] = files.load_object(name, defects)
        elif entities:
            content = files.load_object(name, defects)
            content.note_unread(("entities",), "a file of entities", defects)
            _add_entities(content, types.get(entities["type"]), entities["type"], defects)
        elif name not in phrase_files and not _ENTITY_TYPE.fullmatch(name):
            defects.add(FURTHER_FILE, files.place(name))
    for name, intent_name in phrase_files.items():
        if intent_name not in intents:
            raise DataError(
                f"{files.place(name)}: no file {intent_name}, which names its intent. Export the agent again."
            )
        yield from _intent_examples(intents[intent_name], files.load_object(name, defects), defects)
    for intent in intents.values():
        intent.note_unread(_INTENT_KEYS, "a Dialogflow intent", defects)


def _entity_types(files: ProjectFiles, defects: Defects) -> dict[str, JsonObject]:
    """Return the entity types of an agent by the names of their directories, and keep the entities that stand in them."""
    types = {}
    for name in files.names:
        match = _ENTITY_TYPE.fullmatch(name)
        if match:
            entity_type = files.load_object(name, defects)
            entity_type.note_unread(_TYPE_KEYS, "an entity type of Dialogflow", defects)
            types[match["type"]] = entity_type
            _add_entities(entity_type, entity_type, match["type"], defects)
    return types


def _add_entities(content: JsonObject, entity_type: JsonObject | None, name: str, defects: Defects) -> None:
    """Keep the entities of a type.

    Args:
        content: object with the entities.
        entity_type: their type, or None if the agent lacks it.
        name: name of its directory.
        defects: holds the values.
    """
    is_pattern = entity_type is not None and entity_type.name("kind") == "KIND_REGEXP"
    type_name = (entity_type.name("displayName") if entity_type is not None else "") or name
    for entry in content.objects("entities"):
        entry.note_unread(("value", "synonyms"), "an entity of Dialogflow", defects)
        synonyms = [synonym.strip() for synonym in entry.strings("synonyms") if synonym.strip()]
        add_entry(type_name, entry.given_name("value"), synonyms, entry.place, defects, is_pattern=is_pattern)


def _use_types(intent: JsonObject, defects: Defects) -> None:
    """Say which entity type the parameters of an intent have: `@city`, or a path that ends in its name."""
    for parameter in intent.objects("parameters"):
        parameter.note_unread(_PARAMETER_KEYS, "a parameter of a Dialogflow intent", defects)
        entity_type = parameter.name("entityType").rpartition("/")[2].removeprefix("@")
        if entity_type:
            defects.values.use_type(parameter.given_name("id"), entity_type)


def _intent_examples(intent: JsonObject, content: JsonObject, defects: Defects) -> Iterator[Example]:
    """Yield the examples of an intent. Its phrases are in `content`, which is the intent or a file of its own."""
    name = intent.given_name("displayName")
    if content is intent:
        intent.note_unread(_INTENT_KEYS, "a Dialogflow intent", defects)
    else:
        content.note_unread(("trainingPhrases",), "a file of phrases", defects)
        if not isinstance(content.values.get("trainingPhrases"), list):
            raise content.fault("trainingPhrases", "a list")
    _use_types(intent, defects)
    is_fallback = intent.flag("isFallback")
    for row in content.objects("trainingPhrases"):
        row.note_unread(_PHRASE_KEYS, "a Dialogflow phrase", defects)
        if row.values.get("repeatCount") is not None and row.whole_number("repeatCount") > 1:
            defects.add(REPEATS, row.place)
        if is_fallback:
            defects.add(FALLBACK, row.place)
        segments = []
        for segment in row.objects("parts"):
            segment.note_unread(_PART_KEYS, "a part", defects)
            segments.append(Part(segment.string("text"), segment.name("parameterId") or segment.name("alias")))
        text, spans = join_parts(segments, row.place, defects)
        yield Example(text, {"intent": name, "slots": spans}, source=row.place)

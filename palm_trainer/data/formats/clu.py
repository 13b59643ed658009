"""Azure's conversational language understanding (CLU): an exported project, or a list of utterances, in JSON

Fields: `intent`, `slots`.

Described at https://learn.microsoft.com/azure/ai-services/language-service/conversational-language-understanding/concepts/data-formats.
An entity has `category`, `offset` and `length`, in the unit that `stringIndexType` names (UTF-16 units if it names none).
A path may name a data set of the project after `#`: `project.json#Train` reads the utterances that say so or say nothing,
`project.json#Test` those of the test. Lists and regular expressions of entities say what their values stand for. Prebuilt
entities are counted as passed over.
"""

from collections.abc import Iterator
from pathlib import Path

from palm_trainer.data.example import Example, FieldValue, LabelledSpan
from palm_trainer.data.formats.json_objects import JsonObject, as_object, objects_in
from palm_trainer.data.formats.json_values import load_json
from palm_trainer.data.formats.offsets import from_utf16
from palm_trainer.data.formats.row_values import check_range, separate_spans
from palm_trainer.data.formats.text_files import Defects, FormatOptions
from palm_trainer.errors import DataError

TRAIN = "Train"
TEST = "Test"
TEST_ROW = "utterance of the data set 'Test' (read too; name FILE#Train or FILE#Test to read one)"
_PROJECT_KEYS = ("projectFileVersion", "stringIndexType", "metadata", "assets")
_DECLARED_KEYS = ("category", "compositionSetting")
"""What an intent or an entity always has."""
_IS_UTF16 = {"utf16codeunit": True, "unicodecodepoint": False}
"""Units of offsets in lower case: True for those of UTF-16."""


def is_clu(document: object) -> bool:
    """Return True for the content of a project or of a list of utterances."""
    if isinstance(document, list):
        first = document[0] if document and isinstance(document[0], dict) else {}
        if not {"text", "intent"} <= set(first):
            return False
        entities = first.get("entities")
        names_category = isinstance(entities, list) and (
            not entities or (isinstance(entities[0], dict) and "category" in entities[0])
        )
        return names_category and ("language" in first or "dataset" in first or bool(entities))
    if not isinstance(document, dict):
        return False
    return isinstance(document.get("assets"), dict) and (
        "projectFileVersion" in document or "utterances" in document["assets"]
    )


def splits(path: Path) -> list[str]:
    """List the data sets of a file's utterances."""
    names: dict[str, None] = {}
    for row in _content(path, Defects())[0]:
        names[_data_set(row)] = None
    return list(names)


def parse(path: Path, options: FormatOptions, defects: Defects) -> Iterator[Example]:
    """Yield the examples of a file, one for each utterance.

    Args:
        path: file to read, perhaps with `#Train` or `#Test` after its name.
        options: not used.
        defects: tally of content that is passed over.

    Raises:
        DataError: the file has another structure, has no such data set, or an entity is no range of its text.
    """
    name, _, data_set = path.name.partition("#")
    if data_set not in ("", TRAIN, TEST):
        raise DataError(f"{path}: the data set must be {TRAIN} or {TEST}, got '{data_set}'. Write {name}#{TRAIN}.")
    rows, is_utf16 = _content(path.with_name(name), defects)
    is_empty = True
    for row in rows:
        row_set = _data_set(row)
        if data_set and row_set != data_set:
            continue
        if not data_set and row_set == TEST:
            defects.add(TEST_ROW, row.place)
        is_empty = False
        yield _example(row, defects, is_utf16=is_utf16)
    if data_set and is_empty:
        raise DataError(f"{path}: no utterance of the data set '{data_set}'. Remove #{data_set} to read them all.")


def _content(path: Path, defects: Defects) -> tuple[Iterator[JsonObject], bool]:
    """Return the utterances of a file, and True if their offsets are UTF-16 units."""
    document = load_json(path, defects)
    if isinstance(document, list):
        return objects_in(document, f"{path}: utterance"), True
    project = as_object(document, str(path))
    assets = project.child("assets")
    if not isinstance(assets.values.get("utterances"), list):
        raise assets.fault("utterances", "a list")
    project.note_unread(_PROJECT_KEYS, "a CLU project", defects)
    assets.note_unread(("projectKind", "intents", "entities", "utterances"), "a CLU project", defects)
    for intent in assets.objects("intents"):
        intent.note_unread(_DECLARED_KEYS, "intents of a CLU project", defects)
    for entity in assets.objects("entities"):
        entity.note_unread((*_DECLARED_KEYS, "list", "regex"), "entities of a CLU project", defects)
        _add_values(entity, defects)
    return assets.objects("utterances"), _counts_utf16(project)


def _add_values(entity: JsonObject, defects: Defects) -> None:
    """Keep the values of an entity's list and its regular expressions. A key of a list is no wording unless it stands among them."""
    slot = entity.given_name("category")
    values = entity.child("list")
    values.note_unread(("sublists",), "a list of a CLU entity", defects)
    for row in values.objects("sublists"):
        row.note_unread(("listKey", "synonyms"), "a value of a CLU list", defects)
        wordings = []
        for synonyms in row.objects("synonyms"):
            synonyms.note_unread(("language", "values"), "synonyms of a CLU list", defects)
            wordings += synonyms.strings("values")
        defects.values.add_type_value(slot, row.given_name("listKey"), wordings, row.place, is_said=False)
    defects.values.use_type(slot, slot)
    patterns = entity.child("regex")
    patterns.note_unread(("expressions",), "regular expressions of a CLU entity", defects)
    for row in patterns.objects("expressions"):
        row.note_unread(("regexKey", "language", "regexPattern"), "a regular expression of a CLU entity", defects)
        defects.values.add_type_pattern(slot, row.text("regexPattern"), row.place)


def _counts_utf16(project: JsonObject) -> bool:
    """Return True if offsets are UTF-16 units, False if they are code points. Raises DataError for other units."""
    unit = project.name("stringIndexType") or "Utf16CodeUnit"
    is_utf16 = _IS_UTF16.get(unit.lower())
    if is_utf16 is None:
        raise project.fault("stringIndexType", "Utf16CodeUnit or UnicodeCodePoint")
    return is_utf16


def _data_set(row: JsonObject) -> str:
    """Return the data set of an utterance. Raises DataError for other names."""
    name = row.name("dataset").capitalize() or TRAIN
    if name not in (TRAIN, TEST):
        raise row.fault("dataset", f"{TRAIN} or {TEST}")
    return name


def _example(row: JsonObject, defects: Defects, *, is_utf16: bool) -> Example:
    row.note_unread(("text", "intent", "entities", "dataset", "language"), "a CLU utterance", defects)
    text = row.text("text")
    row.name("language")
    fields: dict[str, FieldValue] = {}
    intent = row.class_name("intent", defects)
    if intent:
        fields["intent"] = intent
    spans = []
    for entity in row.objects("entities"):
        entity.note_unread(("category", "offset", "length"), "a CLU entity", defects)
        start = entity.whole_number("offset")
        end = start + entity.whole_number("length")
        if is_utf16:
            start, end = from_utf16(text, start, end, entity.place)
        check_range(start, end, len(text), entity.place)
        spans.append(LabelledSpan(start, end, entity.given_name("category")))
    fields["slots"] = separate_spans(spans, f"{row.place}: entities", defects)
    return Example(text, fields, source=row.place)

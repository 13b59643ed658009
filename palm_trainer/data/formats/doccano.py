"""doccano: JSON lines with spans as `[start, end, label]` or objects, as it exports and imports them

Fields: `slots` (spans), `label` (classes), `intent` (the `cats` of intent detection and slot filling).

Described at https://doccano.github.io/doccano/tutorial/ and in its dialogs of import and export. A line is
`{"text", "label": [[start, end, name], ...]}`, `{"text", "label": [name, ...]}`,
`{"text", "entities": [{"start_offset", "end_offset", "label"}], "relations"}` or `{"text", "entities": [[start, end, name]], "cats": [name]}`.
Offsets are code points. Relations and comments are counted as passed over.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from palm_trainer.data.example import Example, FieldValue, LabelledSpan
from palm_trainer.data.formats.columns import NO_CLASS
from palm_trainer.data.formats.json_objects import JsonObject, as_object
from palm_trainer.data.formats.json_values import parse_json
from palm_trainer.data.formats.row_values import check_range, separate_spans
from palm_trainer.data.formats.text_files import Defects, FormatOptions, distinct_classes, read_text, split_lines

_LABELS = ("label", "labels")
_KEYS = ("id", "text", "entities", "cats", *_LABELS)


def is_doccano(row: Mapping[str, Any]) -> bool:
    """Return True for a line that only doccano writes."""
    if "text" not in row:
        return False
    entities = row.get("entities")
    if isinstance(entities, list) and ("cats" in row or "relations" in row):
        return True
    if isinstance(entities, list) and entities and isinstance(entities[0], dict) and "start_offset" in entities[0]:
        return True
    return any(_holds_spans(row.get(key)) for key in _LABELS)


def parse(path: Path, options: FormatOptions, defects: Defects) -> Iterator[Example]:
    """Yield the examples of a file, one a line. Blank lines are skipped.

    Args:
        path: file to read.
        options: not used.
        defects: tally of content that is passed over.

    Raises:
        DataError: a line has another structure, or a span is no range of its text.
    """
    rows = list(json_lines(path, defects))
    has_spans = False
    for row in rows:
        has_spans |= any(_holds_spans(row.values.get(key)) for key in _LABELS)
    for row in rows:
        yield _example(row, defects, has_spans=has_spans)


def json_lines(path: Path, defects: Defects) -> Iterator[JsonObject]:
    """Yield the objects of JSON lines.

    Raises:
        DataError: as `read_text`, or a line is no object.
    """
    for number, line in enumerate(split_lines(read_text(path, defects)), 1):
        if line.strip():
            source = f"{path}:{number}"
            yield as_object(parse_json(line, source, "write one object a line", is_line=True), source)


def _holds_spans(value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], list)


def _example(row: JsonObject, defects: Defects, *, has_spans: bool) -> Example:
    row.note_unread(_KEYS, "a doccano line", defects)
    text = row.text("text")
    fields: dict[str, FieldValue] = {}
    for key in _LABELS:
        if row.values.get(key) is None:
            continue
        if has_spans:
            fields["slots"] = _spans(row, key, text, defects)
        else:
            _set_classes(fields, "label", row, key, defects)
    if row.values.get("cats") is not None:
        _set_classes(fields, "intent", row, "cats", defects)
    if row.values.get("entities") is not None:
        fields["slots"] = _spans(row, "entities", text, defects)
    return Example(text, fields, source=row.place)


def _set_classes(fields: dict[str, FieldValue], field: str, row: JsonObject, key: str, defects: Defects) -> None:
    """Set a field to the class or classes of a key; an empty list is told as unlabelled."""
    names = [row.string(key)] if isinstance(row.values[key], str) else row.strings(key)
    distinct = distinct_classes(list(filter(None, map(str.strip, names))), row.place, defects)
    if distinct:
        fields[field] = distinct[0] if len(distinct) == 1 else distinct
    else:
        defects.add(NO_CLASS, row.place)


def _spans(row: JsonObject, key: str, text: str, defects: Defects) -> tuple[LabelledSpan, ...]:
    """Return the spans of a key, given as lists or as objects."""
    spans = []
    for number, item in enumerate(row.items(key), 1):
        source = f"{row.place}: {key} {number}"
        if isinstance(item, list):
            if len(item) != 3:
                raise row.fault(key, "a list of [start, end, label]")
            item = {"start_offset": item[0], "end_offset": item[1], "label": item[2]}
        entity = as_object(item, source)
        entity.note_unread(("id", "start_offset", "end_offset", "label"), "a doccano entity", defects)
        start = entity.whole_number("start_offset")
        end = entity.whole_number("end_offset")
        check_range(start, end, len(text), source)
        spans.append(LabelledSpan(start, end, entity.given_name("label")))
    return separate_spans(spans, f"{row.place}: {key}", defects)

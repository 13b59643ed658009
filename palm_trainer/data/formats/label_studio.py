"""Label Studio: tasks with annotations in JSON, as it exports and imports them

Fields: one for each control of the labelling configuration (`from_name`): spans of `Labels`, classes of `Choices`.

Described at https://labelstud.io/guide/export.html (JSON) and https://labelstud.io/guide/task_format.html. The text is `data.text`, or the
only string of `data`; `data.text_pair` is the second text. Of several annotations the first that was not cancelled counts.
Offsets are code points, in versions before 1.5 UTF-16 units: `value.text` tells which. Predictions are counted as passed over.
"""

from collections.abc import Iterator
from pathlib import Path

from palm_trainer.data.example import Example, FieldValue, LabelledSpan
from palm_trainer.data.formats.json_objects import JsonObject, objects_in
from palm_trainer.data.formats.json_values import load_json
from palm_trainer.data.formats.offsets import place_value
from palm_trainer.data.formats.row_values import check_range, separate_spans
from palm_trainer.data.formats.text_files import Defects, FormatOptions, distinct_classes
from palm_trainer.errors import DataError

NOT_ANNOTATED = "task without an annotation (read as unlabelled)"
CANCELLED = "annotation that was cancelled (passed over)"
FURTHER = "further annotation of a task (passed over)"
MORE_LABELS = "further label of the same words (passed over)"
_TEXT = "text"
_PAIR = "text_pair"
_BOOKKEEPING = (
    *("id", "created_at", "updated_at", "inner_id", "total_annotations", "cancelled_annotations", "total_predictions"),
    *("comment_count", "unresolved_comment_count", "last_comment_updated_at", "project", "updated_by", "file_upload"),
    *("completed_by", "was_cancelled", "ground_truth", "draft_created_at", "lead_time", "task", "unique_id"),
    *("import_id", "last_action", "last_created_by", "result_count", "parent_prediction", "parent_annotation"),
    *("comment_authors", "precomputed_agreement", "bulk_created", "overlap", "is_labeled", "allow_skip"),
)
"""Keys of tasks and annotations that say who worked when."""
_REGION_KEYS = ("id", "from_name", "to_name", "type", "value", "origin", "readonly", "hidden")


def is_label_studio(document: object) -> bool:
    """Return True for a list of tasks."""
    first = document[0] if isinstance(document, list) and document else None
    return isinstance(first, dict) and isinstance(first.get("data"), dict)


def parse(path: Path, options: FormatOptions, defects: Defects) -> Iterator[Example]:
    """Yield the examples of a file, one for each task.

    Args:
        path: file to read.
        options: not used.
        defects: tally of content that is passed over.

    Raises:
        DataError: the file has another structure, or a span is no range of its text.
    """
    document = load_json(path, defects)
    if not isinstance(document, list):
        raise DataError(
            f"{path}: must hold a list of tasks, got a JSON {type(document).__name__}. Set the right `format`."
        )
    examples = []
    span_fields: dict[str, None] = {}
    for task in objects_in(document, f"{path}: task"):
        example, is_annotated = _example(task, defects)
        examples.append((example, is_annotated))
        for name, value in example.fields.items():
            if isinstance(value[0], LabelledSpan):
                span_fields[name] = None
    for example, is_annotated in examples:
        empty: dict[str, FieldValue] = dict.fromkeys(span_fields, ()) if is_annotated else {}
        yield Example(example.text, {**empty, **example.fields}, pair=example.pair, source=example.source)


def _example(task: JsonObject, defects: Defects) -> tuple[Example, bool]:
    """Return the example of a task, and True if somebody annotated it."""
    task.note_unread((*_BOOKKEEPING, "data", "annotations"), "a task", defects)
    data = task.child("data")
    key = _text_key(data)
    text = data.text(key)
    pair = data.text(_PAIR) if data.values.get(_PAIR) is not None else None
    data.note_unread((key, _PAIR), "the data of a task", defects)
    annotation = None
    for candidate in task.objects("annotations"):
        if candidate.flag("was_cancelled"):
            defects.add(CANCELLED, candidate.place)
        elif annotation is not None:
            defects.add(FURTHER, candidate.place)
        else:
            annotation = candidate
    if annotation is None:
        defects.add(NOT_ANNOTATED, task.place)
        return Example(text, {}, pair=pair, source=task.place), False
    annotation.note_unread((*_BOOKKEEPING, "result"), "an annotation", defects)
    return Example(text, _fields(annotation, text, defects), pair=pair, source=task.place), True


def _text_key(data: JsonObject) -> str:
    """Return the key of the text of a task. Raises DataError if several could be it."""
    strings = [key for key, value in data.values.items() if isinstance(value, str) and key != _PAIR]
    if _TEXT in data.values or len(strings) != 1:
        return _TEXT
    return strings[0]


def _fields(annotation: JsonObject, text: str, defects: Defects) -> dict[str, FieldValue]:
    """Return the fields of an annotation that hold something."""
    spans: dict[str, list[LabelledSpan]] = {}
    classes: dict[str, list[str]] = {}
    for region in annotation.objects("result"):
        kind = region.name("type")
        if kind not in ("labels", "choices"):
            defects.add(f"region of type '{kind}' (passed over)", region.place)
            continue
        region.note_unread(_REGION_KEYS, "a region", defects)
        field = region.given_name("from_name")
        value = region.child("value")
        if kind == "choices":
            value.note_unread(("choices",), "a choice", defects)
            classes.setdefault(field, []).extend(_names(value, "choices"))
        else:
            spans.setdefault(field, []).append(_span(value, text, defects))
    fields: dict[str, FieldValue] = {}
    for field, names in classes.items():
        if field in spans:
            raise DataError(f"{annotation.place}: '{field}' must hold labels or choices, got both. Rename one.")
        distinct = distinct_classes(names, annotation.place, defects)
        if distinct:
            fields[field] = distinct[0] if len(distinct) == 1 else distinct
    for field, field_spans in spans.items():
        fields[field] = separate_spans(field_spans, f"{annotation.place}: {field}", defects)
    return fields


def _span(value: JsonObject, text: str, defects: Defects) -> LabelledSpan:
    """Return the span of a region. Raises DataError if it is no range of the text, or has no label."""
    value.note_unread(("start", "end", "text", "labels"), "a region", defects)
    start = value.whole_number("start")
    end = value.whole_number("end")
    if value.values.get("text") is not None:
        start, end = place_value(text, start, end, value.string("text"), value.place, defects)
    check_range(start, end, len(text), value.place)
    labels = _names(value, "labels")
    if not labels:
        raise value.fault("labels", "a list with at least one name")
    if len(labels) > 1:
        defects.add(MORE_LABELS, value.place, len(labels) - 1)
    return LabelledSpan(start, end, labels[0])


def _names(value: JsonObject, key: str) -> list[str]:
    """Return the names in a list, without outer blanks. Raises DataError if one is blank."""
    names = list(map(str.strip, value.strings(key)))
    if not all(names):
        raise value.fault(key, "a list of names")
    return names

"""Writers of the formats of annotation tools: Label Studio, doccano and Prodigy."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from palm_trainer.data.example import Example, FieldValue
from palm_trainer.data.formats.jsonl import ANSWER, spans_as_json
from palm_trainer.data.formats.text_fields import (
    choose_main_field,
    class_fields,
    select_spans,
    span_fields,
    write_lines,
)
from palm_trainer.data.formats.text_files import FormatOptions


def write_label_studio(examples: Sequence[Example], path: Path, options: FormatOptions) -> None:
    """Write tasks with one annotation each: a region for each span, and a choice for each class field.

    Args:
        examples: examples to write.
        path: new file.
        options: not used.
    """
    tasks = []
    for number, example in enumerate(examples, 1):
        data = {"text": example.text} | ({} if example.pair is None else {"text_pair": example.pair})
        result: list[dict[str, Any]] = []
        for name, value in example.fields.items():
            if name != ANSWER:
                result += _regions(name, value, example.text, len(result))
        tasks.append({"id": number, "data": data, "annotations": [{"result": result}] if example.fields else []})
    write_lines(path, [json.dumps(tasks, ensure_ascii=False, indent=1)])


def _regions(name: str, value: FieldValue, text: str, count: int) -> list[dict[str, Any]]:
    """Return the regions of a field. `count` regions have an id already."""
    values: list[dict[str, Any]] = []
    kind = "labels"
    for span in select_spans(value):
        region: dict[str, Any] = {"start": span.start, "end": span.end, "text": text[span.start : span.end]}
        values.append(region | {"labels": [span.label]})
    if value and not values:
        kind = "choices"
        values.append({"choices": [value] if isinstance(value, str) else list(value)})
    regions = []
    for number, region in enumerate(values, count + 1):
        names = {"id": str(number), "from_name": name, "to_name": "text", "type": kind}
        regions.append(names | {"value": region})
    return regions


def write_doccano(examples: Sequence[Example], path: Path, options: FormatOptions) -> None:
    """Write lines for sequence labelling, text classification, or (with both) intent detection and slot filling.

    Args:
        examples: examples to write.
        path: new file.
        options: not used.
    """
    slot_names = span_fields(examples)
    class_names = class_fields(examples)
    slots = choose_main_field(slot_names, "slots")
    label = choose_main_field(class_names, "intent" if slot_names else "label")
    has_spans = any(select_spans(example.fields.get(slots, ())) for example in examples)
    span_key = "entities" if class_names or not has_spans else "label"  # empty lists in `label` may be classes too
    class_key = "cats" if slot_names else "label"
    rows = []
    for example in examples:
        row: dict[str, Any] = {"text": example.text}
        if slot_names and slots in example.fields:
            spans = select_spans(example.fields[slots])
            row[span_key] = [[span.start, span.end, span.label] for span in spans]
        if class_names and example.fields.get(label):
            row[class_key] = _names(example.fields[label])
        rows.append(json.dumps(row, ensure_ascii=False))
    write_lines(path, rows)


def write_prodigy(examples: Sequence[Example], path: Path, options: FormatOptions) -> None:
    """Write accepted tasks with spans, tokens where the data was tagged on words, and a label or accepted options.

    Args:
        examples: examples to write.
        path: new file.
        options: not used.
    """
    slots = choose_main_field(span_fields(examples), "slots")
    label = choose_main_field(class_fields(examples), "label")
    rows = []
    for example in examples:
        row: dict[str, Any] = {"text": example.text}
        if example.words is not None:
            row["tokens"] = _tokens(example)
        if slots in example.fields:
            row["spans"] = spans_as_json(select_spans(example.fields[slots]))
            for span in row["spans"]:
                span.pop("role", None)
                span.pop("group", None)
        value = example.fields.get(label)
        if isinstance(value, str):
            row["label"] = value
        elif value is not None:
            row["accept"] = _names(value)
        rows.append(json.dumps(row | {"answer": "accept"}, ensure_ascii=False))
    write_lines(path, rows)


def _names(value: FieldValue) -> list[str]:
    """Return the classes of a field's value."""
    return [value] if isinstance(value, str) else [item for item in value if isinstance(item, str)]


def _tokens(example: Example) -> list[dict[str, Any]]:
    tokens = []
    for number, (start, end) in enumerate(example.words or ()):
        tokens.append({"text": example.text[start:end], "start": start, "end": end, "id": number})
    return tokens

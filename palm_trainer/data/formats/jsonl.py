"""JSON lines: the project's own format, which holds everything that an `Example` holds.

    {"text": "...", "text_pair": "...", "context": ["...", ...], FIELD: VALUE, ...}

`context` holds the turns before the text, the newest last, and `requested_slots` the names of the slots that the
system has just asked for. VALUE is a class `"a"`, classes `["a", "b"]`, or spans `[{"start": 0, "end": 4, "label": "x"}]`
(also `"role"` and `"group"`) in code points, half-open. Of spans that overlap, one is kept. `null`
and an absent field mean unlabelled, `[]` that nothing applies. Spans refer to the text. Those of the field `answer`
refer to the pair if there is one, and may overlap. A line `{"values": {SLOT: {VALUE: [WORDING, ...]}}, "patterns": {NAME: [REGEX, ...]}}`
says what values of slots stand for (SLOT "": of all slots). `"words": [[0, 4], ...]` are the ranges of the
words that the data was tagged on.
"""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from palm_trainer.config.mappings import absent
from palm_trainer.data.example import Example, FieldValue, LabelledSpan, spans_in
from palm_trainer.data.formats.json_values import parse_json
from palm_trainer.data.formats.row_values import ANSWER, OVERLAPPING
from palm_trainer.data.formats.rows import CONTEXT, REQUESTED_SLOTS, Layout, find_layout, row_example
from palm_trainer.data.formats.text_files import Defects, FormatOptions, read_text, split_lines
from palm_trainer.data.formats.value_lists import VALUE_KEYS, add_values
from palm_trainer.errors import DataError

__all__ = ["ANSWER", "OVERLAPPING", "as_row", "objects_examples", "parse"]


def parse(path: Path, options: FormatOptions, defects: Defects) -> Iterator[Example]:
    """Yield the examples of a file, one a line. Blank lines are skipped.

    Args:
        path: file to read.
        options: `columns` names the keys that are read. None given: all.
        defects: tally of repaired defects.

    Raises:
        DataError: a line is not such an object, or spans are out of range, empty or overlapping.
    """
    yield from objects_examples(_objects(path, defects), path, options, defects)


def _objects(path: Path, defects: Defects) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield place and object of each line that is not blank."""
    for number, line in enumerate(split_lines(read_text(path, defects)), 1):
        if line.strip():
            source = f"{path}:{number}"
            row = _read_object(line, source)
            if row and set(row) <= VALUE_KEYS:
                add_values(row, source, defects)
            else:
                yield source, row


def objects_examples(
    objects: Iterable[tuple[str, dict[str, Any]]], path: Path, options: FormatOptions, defects: Defects
) -> Iterator[Example]:
    """Yield the examples of JSON objects, whose keys may differ.

    Args:
        objects: place and content of each object.
        path: their file, for messages.
        options: `columns` names the keys that are read. None given: all but numbers of rows.
        defects: tally of repaired defects.

    Raises:
        DataError: an object is no row, or none has one of `columns`.
    """
    layouts: dict[tuple[str, ...], Layout] = {}
    keys: set[str] = set()
    for source, row in objects:
        names = tuple(row)
        if names not in layouts:
            keys.update(names)
            layouts[names] = find_layout(names, source, options)
        for name in layouts[names].columns:
            _check_value(row[name], f'{source}: "{name}"')
        yield row_example(row, layouts[names], source, options, defects)
    missing = absent(options.columns, keys)
    if missing:
        raise DataError(f"{path}: no row has the key '{missing[0]}'; change `columns`")


def _check_value(value: Any, place: str) -> None:
    """Check that a value can be read as it is written. Numbers are names of classes; true, false and infinity are not.

    Raises:
        DataError: it would have to be changed.
    """
    for item in value if isinstance(value, list) else (value,):
        if isinstance(item, bool) or (isinstance(item, float) and math.isinf(item)):
            raise DataError(f"{place} must hold strings, numbers or objects, got {value!r}. Write a name in quotes.")


def _read_object(line: str, source: str) -> dict[str, Any]:
    row = parse_json(line, source, "write one object a line", is_line=True)
    if not isinstance(row, dict):
        raise DataError(f'{source}: {type(row).__name__}, not an object; write {{"text": ..., "FIELD": ...}}')
    return row


def as_row(example: Example) -> dict[str, Any]:
    """Convert an example to a JSON object. `row_example` is the inverse."""
    row: dict[str, Any] = {"text": example.text}
    if example.pair is not None:
        row["text_pair"] = example.pair
    if example.context is not None:
        for name, texts in ((CONTEXT, example.context.turns), (REQUESTED_SLOTS, example.context.requested_slots)):
            if texts:
                row[name] = list(texts)
    for name, value in example.fields.items():
        row[name] = value_as_json(value)
    if example.words is not None:
        row["words"] = list(map(list, example.words))
    return row


def spans_as_json(spans: Iterable[LabelledSpan]) -> list[dict[str, Any]]:
    """Convert spans to JSON objects without empty keys."""
    rows = []
    for span in spans:
        row: dict[str, Any] = {"start": span.start, "end": span.end}
        for key, text in (("label", span.label), ("role", span.role), ("group", span.group)):
            if text:
                row[key] = text
        rows.append(row)
    return rows


def value_as_json(value: FieldValue) -> str | list[Any]:
    """Convert the value of a field to JSON: a class, classes, or spans."""
    if isinstance(value, str):
        return value
    spans = spans_in(value)
    return spans_as_json(spans) if spans else list(value)

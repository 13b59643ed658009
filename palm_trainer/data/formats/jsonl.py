"""JSON lines: the project's own format, which holds everything that an `Example` holds.

    {"text": "...", "text_pair": "...", FIELD: VALUE, ...}

VALUE is a class `"a"`, classes `["a", "b"]`, or spans `[{"start": 0, "end": 4, "label": "x"}]` (also `"role"` and
`"group"`) in code points, half-open, not overlapping. `null` and an absent field are unlabelled, `[]` says that nothing
applies. Spans index the text; those of the field `answer` index the pair where there is one, and may overlap.
`"words": [[0, 4], ...]` are the ranges of the words that the data was tagged on.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from palm_trainer.data.example import Example, FieldValue, LabelledSpan
from palm_trainer.data.formats.text_files import Defects, FormatOptions, lines, read_text
from palm_trainer.errors import DataError

ANSWER = "answer"
"""The field whose spans index the pair (the passage) and may overlap (several annotators)."""
_SPAN_KEYS = {"start", "end", "label", "role", "group"}


def parse(path: Path, options: FormatOptions, defects: Defects) -> Iterator[Example]:
    """Examples of the file, a line each; blank lines are passed over.

    Raises:
        DataError: for a line that is not such an object, or spans that are out of range, empty or overlapping.
    """
    for number, line in enumerate(lines(read_text(path, defects)), 1):
        if line.strip():
            yield _example(line, f"{path}:{number}")


def _example(line: str, where: str) -> Example:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}:{error.colno}: not JSON: {error.msg}; write one object a line") from None
    if not isinstance(row, dict):
        raise DataError(f'{where}: {type(row).__name__}, not an object; write {{"text": ..., "FIELD": ...}}')
    return row_example(row, where)


def as_row(example: Example) -> dict[str, Any]:
    """The object of an example, which `row_example` makes an equal one of."""
    row: dict[str, Any] = {"text": example.text}
    if example.pair is not None:
        row["text_pair"] = example.pair
    row |= {name: value if isinstance(value, str) else _json_list(value) for name, value in example.fields.items()}
    if example.words is not None:
        row["words"] = [list(word) for word in example.words]
    return row


def spans_as_json(spans: Iterable[LabelledSpan]) -> list[dict[str, Any]]:
    """Spans as objects, without the keys that are empty."""
    rows = []
    for span in spans:
        extra = {key: text for key, text in (("label", span.label), ("role", span.role), ("group", span.group)) if text}
        rows.append({"start": span.start, "end": span.end} | extra)
    return rows


def _json_list(value: Sequence[str] | Sequence[LabelledSpan]) -> list[Any]:
    spans = [item for item in value if isinstance(item, LabelledSpan)]
    return spans_as_json(spans) if spans else list(value)


def row_example(row: dict[str, Any], where: str) -> Example:
    """The example of an object, which is used up. Raises DataError as `parse`."""
    text, pair = row.pop("text", None), row.pop("text_pair", None)
    if not isinstance(text, str) or not text.strip():
        raise DataError(f'{where}: "text" is {text!r}; it must be a string with at least one character')
    if pair is not None and (not isinstance(pair, str) or not pair.strip()):
        raise DataError(
            f'{where}: "text_pair" is {pair!r}; it must be a string with at least one character, or left out'
        )
    words = _words(row.pop("words", None), len(text), where)
    fields: dict[str, FieldValue] = {}
    for name, value in row.items():
        if value is None:
            continue
        on_pair = name == ANSWER and pair is not None
        fields[name] = _field(value, len(pair if on_pair and pair else text), f'{where}: "{name}"', answer=on_pair)
    return Example(text, fields, pair=pair, words=words, source=where)


def _field(value: Any, length: int, where: str, answer: bool) -> FieldValue:
    if isinstance(value, str) and value:
        return value
    if isinstance(value, list) and all(isinstance(item, str) and item for item in value):
        return tuple(dict.fromkeys(value))
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise DataError(
            f'{where} is {value!r}; it must be "class", ["class", ...] or [{{"start", "end", "label"}}, ...]'
        )
    spans = sorted((_span(item, length, where, answer) for item in value), key=lambda span: (span.start, span.end))
    for left, right in pairwise(spans):
        if right.start < left.end and not answer:
            raise DataError(
                f"{where}: spans {left.start}-{left.end} and {right.start}-{right.end} overlap; keep one of them"
            )
    return tuple(spans)


def _span(item: dict[str, Any], length: int, where: str, answer: bool) -> LabelledSpan:
    start, end, label = item.get("start"), item.get("end"), item.get("label", "")
    role, group = item.get("role", ""), item.get("group", "")
    if set(item) - _SPAN_KEYS or not all(isinstance(name, str) for name in (label, role, group)):
        raise DataError(f"{where}: span {item!r}: its keys are start, end (numbers), label, role, group (strings)")
    if not label and not answer:
        raise DataError(f"{where}: span {start}-{end} has no label; only those of the field '{ANSWER}' need none")
    if type(start) is not int or type(end) is not int or not 0 <= start < end <= length:
        raise DataError(
            f"{where}: span {start}-{end} is not a range in a text of {length} code points; need 0 <= start < end"
        )
    return LabelledSpan(start, end, label, role, group)


def _words(value: Any, length: int, where: str) -> tuple[tuple[int, int], ...] | None:
    if value is None:
        return None
    try:
        words = tuple((int(start), int(end)) for start, end in value)
    except (TypeError, ValueError):
        raise DataError(f'{where}: "words" is {value!r}; it must be a list of [start, end]') from None
    bounds = [bound for word in words for bound in word]
    if (
        bounds != sorted(bounds)
        or any(start == end for start, end in words)
        or (bounds and not 0 <= bounds[0] <= bounds[-1] <= length)
    ):
        raise DataError(f'{where}: "words" are not ranges in order within {length} code points; correct or remove them')
    return words

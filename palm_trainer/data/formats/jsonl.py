"""JSON lines: the project's own format, which holds everything that an `Example` holds.

    {"text": "...", "text_pair": "...", FIELD: VALUE, ...}

VALUE is a class `"a"`, classes `["a", "b"]`, or spans `[{"start": 0, "end": 4, "label": "x"}]`
(also `"role"` and `"group"`) in code points, half-open. Of spans that overlap, one is kept. `null`
and an absent field mean unlabelled, `[]` that nothing applies. Spans refer to the text. Those of the field `answer`
refer to the pair if there is one, and may overlap. `"words": [[0, 4], ...]` are the ranges of the
words that the data was tagged on.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from palm_trainer.config.mappings import absent, select_keys
from palm_trainer.data.example import Example, FieldValue, LabelledSpan
from palm_trainer.data.formats.columns import TEXT_COLUMNS
from palm_trainer.data.formats.json_values import parse_json
from palm_trainer.data.formats.text_files import Defects, FormatOptions, read_text, split_lines
from palm_trainer.errors import DataError

ANSWER = "answer"
"""The field whose spans refer to the pair (the passage) and may overlap (several annotators)."""
OVERLAPPING = "span that overlaps another of its field (left out; the first and longest is kept)"
_SPAN_KEYS = {"start", "end", "label", "role", "group"}


def parse(path: Path, options: FormatOptions, defects: Defects) -> Iterator[Example]:
    """Yield the examples of a file, one a line. Blank lines are skipped.

    Args:
        path: file to read.
        options: `columns` names the keys that are read. None given: all.
        defects: tally of repaired defects.

    Raises:
        DataError: a line is not such an object, or spans are out of range, empty or overlapping.
    """
    keys: set[str] = set()
    for number, line in enumerate(split_lines(read_text(path, defects)), 1):
        if line.strip():
            row = _read_object(line, f"{path}:{number}")
            if options.columns:
                row = select_keys(row, options.columns)
                keys.update(row)
            yield row_example(_name_texts(row), f"{path}:{number}", defects)
    missing = absent(options.columns, keys)
    if missing:
        raise DataError(f"{path}: no line has the key '{missing[0]}'; change `columns`")


def _name_texts(row: dict[str, Any]) -> dict[str, Any]:
    """Rename `text_a` or `sentence` to `text`, and `text_b` to `text_pair`, in an object without `text`."""
    names = [key for key in TEXT_COLUMNS if key in row]
    if "text" in row or len(names) != 1:
        return row
    renamed = {names[0]: "text"}
    if "text_pair" not in row:
        renamed["text_b"] = "text_pair"
    renamed_row = {}
    for key, value in row.items():
        renamed_row[renamed.get(key, key)] = value
    return renamed_row


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
    for name, value in example.fields.items():
        row[name] = value if isinstance(value, str) else _json_list(value)
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


def _json_list(value: Sequence[str] | Sequence[LabelledSpan]) -> list[Any]:
    spans = [item for item in value if isinstance(item, LabelledSpan)]
    return spans_as_json(spans) if spans else list(value)


def row_example(row: dict[str, Any], source: str, defects: Defects) -> Example:
    """Convert a JSON object to an example. The object is emptied.

    Args:
        row: the object, with `text` and the fields.
        source: `file:line`, for messages.
        defects: tally of spans that are left out.

    Raises:
        DataError: as `parse`.
    """
    text = row.pop("text", None)
    pair = row.pop("text_pair", None)
    if not isinstance(text, str) or not text.strip():
        raise DataError(f'{source}: "text" is {text!r}; it must be a string with at least one character')
    if pair is not None and (not isinstance(pair, str) or not pair.strip()):
        raise DataError(
            f'{source}: "text_pair" is {pair!r}; it must be a string with at least one character, or left out'
        )
    words = read_words(row.pop("words", None), len(text), source)
    fields: dict[str, FieldValue] = {}
    for name, value in row.items():
        if value is None:
            continue
        labelled_text = pair if name == ANSWER and pair is not None else text
        is_answer = name == ANSWER and pair is not None
        fields[name] = read_field(value, len(labelled_text), f'{source}: "{name}"', defects, is_answer=is_answer)
    return Example(text, fields, pair=pair, words=words, source=source)


def read_field(value: Any, length: int, source: str, defects: Defects, *, is_answer: bool) -> FieldValue:
    """Convert a JSON value to a class, classes or spans.

    Args:
        value: the JSON value.
        length: code points of the text that spans refer to.
        source: `file:line: field`, for messages.
        defects: tally of spans that are left out.
        is_answer: True for answers, which need no label and may overlap.

    Raises:
        DataError: the value is none of them.
    """
    if isinstance(value, str) and value:
        return value
    if isinstance(value, list) and all(isinstance(item, str) and item for item in value):
        return tuple(dict.fromkeys(value))
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise DataError(
            f'{source} is {value!r}; it must be "class", ["class", ...] or [{{"start", "end", "label"}}, ...]'
        )
    spans = [_span(item, length, source, is_answer) for item in value]
    if is_answer:
        return tuple(sorted(spans, key=lambda span: (span.start, span.end)))
    return _without_overlaps(spans, source, defects)


def _without_overlaps(spans: Sequence[LabelledSpan], source: str, defects: Defects) -> tuple[LabelledSpan, ...]:
    """Keep the first and longest of spans that overlap, in text order, and count the others."""
    separate: list[LabelledSpan] = []
    for span in sorted(spans, key=lambda span: (span.start, -span.end)):
        if separate and span.start < separate[-1].end:
            defects.add(OVERLAPPING, source)
        else:
            separate.append(span)
    return tuple(separate)


def _span(item: dict[str, Any], length: int, source: str, is_answer: bool) -> LabelledSpan:
    start = item.get("start")
    end = item.get("end")
    label = item.get("label", "")
    role = item.get("role", "")
    group = item.get("group", "")
    if set(item) - _SPAN_KEYS or not all(isinstance(name, str) for name in (label, role, group)):
        raise DataError(f"{source}: span {item!r}: its keys are start, end (numbers), label, role, group (strings)")
    if not label and not is_answer:
        raise DataError(f"{source}: span {start}-{end} has no label; only those of the field '{ANSWER}' need none")
    if type(start) is not int or type(end) is not int or not 0 <= start < end <= length:
        raise DataError(
            f"{source}: span {start}-{end} is not a range in a text of {length} code points; need 0 <= start < end"
        )
    return LabelledSpan(start, end, label, role, group)


def read_words(value: Any, length: int, source: str) -> tuple[tuple[int, int], ...] | None:
    """Convert a JSON value to the ranges of words in a text of `length` code points.

    Args:
        value: a list of [start, end], or None.
        length: of the text, in code points.
        source: place of the row, for messages.
    """
    if value is None:
        return None
    try:
        ranges = []
        for start, end in value:
            ranges.append((int(start), int(end)))
    except (TypeError, ValueError, OverflowError):
        raise DataError(f'{source}: "words" is {value!r}; it must be a list of [start, end]') from None
    previous_end = 0
    for start, end in ranges:
        if not previous_end <= start < end <= length:
            raise DataError(
                f'{source}: "words" are not ranges in order within {length} code points; correct or remove them'
            )
        previous_end = end
    return tuple(ranges)

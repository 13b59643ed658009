"""Values of a row's fields: a class, classes, or spans as JSON objects."""

from bisect import bisect_left, insort
from collections.abc import Sequence
from operator import attrgetter, itemgetter
from sys import intern
from typing import Any

from palm_trainer.data.example import FieldValue, LabelledSpan
from palm_trainer.data.formats.text_files import Defects, distinct_classes
from palm_trainer.errors import DataError

SPAN_FIELDS = ("slots", "tags", "entities", "answer", "answers")
"""Names of fields that hold spans, if they hold no class or words."""
ANSWER = "answer"
"""The field whose spans refer to the pair (the passage) and may overlap (several annotators)."""
OVERLAPPING = "span that overlaps another of its field (left out; the longest is kept)"
REPEATED_SPAN = "span given twice in its field (kept once)"
_SPAN_KEYS = {"start", "end", "label", "role", "group"}


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
        return distinct_classes(value, source, defects)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise DataError(
            f'{source} is {value!r}; it must be "class", ["class", ...] or [{{"start", "end", "label"}}, ...]'
        )
    spans = [_span(item, length, source, is_answer) for item in value]
    distinct = list(dict.fromkeys(spans))
    if len(distinct) < len(spans):
        defects.add(REPEATED_SPAN, source, len(spans) - len(distinct))
    if is_answer:
        return tuple(sorted(distinct, key=attrgetter("start", "end")))
    return separate_spans(distinct, source, defects)


def separate_spans(spans: Sequence[LabelledSpan], source: str, defects: Defects) -> tuple[LabelledSpan, ...]:
    """Keep the longest of spans that overlap, and of equally long ones the first. Count the others.

    Args:
        spans: spans of one field.
        source: `file:line: field`, for messages.
        defects: tally of spans that are left out.

    Returns:
        Spans in text order.
    """
    ranges: list[tuple[int, int]] = []
    """Start and end of the spans so far, in text order."""
    separate: list[LabelledSpan] = []
    for span in sorted(spans, key=lambda span: (span.start - span.end, span.start)):
        position = bisect_left(ranges, span.start, key=itemgetter(0))
        follows = position == 0 or ranges[position - 1][1] <= span.start
        precedes = position == len(ranges) or span.end <= ranges[position][0]
        if follows and precedes:
            insort(ranges, (span.start, span.end))
            separate.append(span)
        else:
            defects.add(OVERLAPPING, source)
    return tuple(sorted(separate, key=attrgetter("start")))


def _span(item: dict[str, Any], length: int, source: str, is_answer: bool) -> LabelledSpan:
    start: Any = item.get("start")
    end: Any = item.get("end")
    label = item.get("label", "")
    role = item.get("role", "")
    group = item.get("group", "")
    if set(item) - _SPAN_KEYS or not all(isinstance(name, str) for name in (label, role, group)):
        raise DataError(f"{source}: span {item!r}: its keys are start, end (numbers), label, role, group (strings)")
    if not label and not is_answer:
        raise DataError(f"{source}: span {start}-{end} has no label; only those of the field '{ANSWER}' need none")
    check_range(start, end, length, source)
    return LabelledSpan(start, end, intern(label), intern(role), intern(group))


def check_range(start: Any, end: Any, length: int, source: str) -> None:
    """Check that a span is a range of a text.

    Args:
        start: first code point.
        end: code point after the last.
        length: of the text, in code points.
        source: place of the span, for the message.

    Raises:
        DataError: it is not.
    """
    if type(start) is not int or type(end) is not int or not 0 <= start < end <= length:
        raise DataError(
            f"{source}: span {start}-{end} is not a range in a text of {length} code points; need 0 <= start < end"
        )


def read_words(value: Any, length: int, source: str) -> tuple[tuple[int, int], ...] | None:
    """Convert a JSON value to the ranges of words in a text of `length` code points.

    Args:
        value: a list of [start, end], or None.
        length: of the text, in code points.
        source: place of the row, for messages.
    """
    if value is None:
        return None
    ranges: list[tuple[int, int]] = []
    for item in value if isinstance(value, list) else (None,):
        if not isinstance(item, list) or len(item) != 2 or type(item[0]) is not int or type(item[1]) is not int:
            raise DataError(f'{source}: "words" is {value!r}; it must be a list of [start, end]')
        ranges.append((item[0], item[1]))
    previous_end = 0
    for start, end in ranges:
        if not previous_end <= start < end <= length:
            raise DataError(
                f'{source}: "words" are not ranges in order within {length} code points; correct or remove them'
            )
        previous_end = end
    return tuple(ranges)

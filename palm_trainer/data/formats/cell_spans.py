"""Spans in the cells of tables, beside the text of their row.

tags     a tag for each word of the text, with blanks between them: `O O B-city I-city` (MultiATIS++, MixATIS)
offsets  code points and label of each span: `12:16:city,20:26:date` (MTOD, MTOP). An empty cell has no span
json     spans as in jsonl: `[{"start": 12, "end": 16, "label": "city"}]`. An empty cell has no span
"""

import re
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from palm_trainer.data.example import LabelledSpan
from palm_trainer.data.formats.json_values import parse_json
from palm_trainer.data.formats.row_values import read_field
from palm_trainer.data.formats.tags import TAG, spans_from_tags
from palm_trainer.data.formats.text_files import Defects
from palm_trainer.errors import DataError

Notation: TypeAlias = Literal["tags", "offsets", "json"]
Spans: TypeAlias = tuple[LabelledSpan, ...]
Ranges: TypeAlias = tuple[tuple[int, int], ...]

_WORD = re.compile(r"\S+")
_OFFSET = r"\d{1,9}:\d{1,9}:[^,\s\d][^,]*"
_OFFSETS = re.compile(rf"{_OFFSET}(?:,\s*{_OFFSET})*")
"""A label does not begin with a digit: `10:30:45` is a time."""
_JSON_SPAN = re.compile(r'\s*\[\s*\{\s*"')
_SPAN_KEYS = ("start", "end", "label")
_NO_SPANS = re.compile(r"\s*\[\s*\]\s*")


def find_notation(cells: Sequence[str], texts: Sequence[str]) -> Notation | None:
    """Return the notation of the spans in a column. None: it holds no spans.

    Args:
        cells: some cells of the column.
        texts: the texts of their rows.
    """
    if has_offsets(cells):
        return "offsets"
    if _has_json(cells):
        return "json"
    has_span = False
    for cell, text in zip(cells, texts, strict=True):
        tags = cell.split()
        if len(tags) != len(text.split()) or not all(map(TAG.fullmatch, tags)):
            return None
        has_span |= set(tags) != {"O"}
    return "tags" if has_span else None


def has_offsets(cells: Sequence[str]) -> bool:
    """Return True if all cells of a column that are not empty hold offsets, and one does."""
    filled = list(filter(str.strip, cells))
    return bool(filled) and all(_OFFSETS.fullmatch(cell.strip()) for cell in filled)


def _has_json(cells: Sequence[str]) -> bool:
    """Return True if all cells of a column that are not empty are lists of spans in JSON, and one holds a span."""
    has_span = False
    for cell in filter(str.strip, cells):
        is_span = _JSON_SPAN.match(cell) is not None and all(f'"{key}"' in cell for key in _SPAN_KEYS)
        if not is_span and _NO_SPANS.fullmatch(cell) is None:
            return False
        has_span |= is_span
    return has_span


def tag_share(cells: Sequence[str]) -> float:
    """Return the share of the words in some cells that are tags."""
    words = " ".join(cells).split()
    return sum(TAG.fullmatch(word) is not None for word in words) / max(1, len(words))


def read_tags(cell: str, text: str, scheme: str, source: str, defects: Defects) -> tuple[Spans, Ranges]:
    """Return the spans of a cell of tags, and the ranges of the words.

    Args:
        cell: the tags.
        text: text of the row.
        scheme: a key of `SCHEMES`.
        source: `file:line: 'column'`, for messages.
        defects: tally of repaired spans.

    Raises:
        DataError: there is not a tag for each word, or one is of another form.
    """
    tags = cell.split()
    ranges = tuple(match.span() for match in _WORD.finditer(text))
    if len(tags) != len(ranges):
        raise DataError(
            f"{source} must have a tag for each of the {len(ranges)} words of the text, got {len(tags)}. Correct the row."
        )
    return spans_from_tags(tags, ranges, scheme, [source] * len(tags), defects), ranges


def read_offsets(cell: str, text: str, source: str, defects: Defects) -> Spans:
    """Return the spans of a cell of offsets.

    Args:
        cell: the offsets.
        text: text of the row.
        source: `file:line: 'column'`, for messages.
        defects: tally of spans that are left out.

    Raises:
        DataError: the cell is of another form, or a span lies outside of the text.
    """
    cell = cell.strip()
    if cell and not _OFFSETS.fullmatch(cell):
        raise DataError(
            f"{source} must hold spans as START:END:LABEL with commas between them, got '{cell[:64]}'. Correct the row."
        )
    items = []
    for item in filter(None, cell.split(",")):
        start, end, label = item.strip().split(":", 2)
        items.append({"start": int(start), "end": int(end), "label": label})
    return _spans(items, text, source, defects)


def read_json_spans(cell: str, text: str, source: str, defects: Defects) -> Spans:
    """Return the spans of a cell of JSON.

    Args:
        cell: the list of spans.
        text: text of the row.
        source: `file:line: 'column'`, for messages.
        defects: tally of spans that are left out.

    Raises:
        DataError: the cell is no JSON, or a span has other keys or lies outside of the text.
    """
    items = parse_json(cell, source, "correct the cell", subject="the cell") if cell.strip() else []
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise DataError(f"{source} must hold a list of spans in JSON, got '{cell[:64]}'. Correct the row.")
    return _spans(items, text, source, defects)


def _spans(items: list[dict[str, Any]], text: str, source: str, defects: Defects) -> Spans:
    spans = read_field(items, len(text), source, defects, is_answer=False)
    return tuple(span for span in spans if isinstance(span, LabelledSpan))

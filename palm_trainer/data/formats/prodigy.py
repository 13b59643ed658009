"""Prodigy: JSON lines as `db-out` writes them, with `spans`, `label` or `accept`, and `answer`

Fields: `slots` (spans), `label` (a class, or several).

Described at https://prodi.gy/docs/api-interfaces. Tasks that were rejected or ignored are left out and counted. Offsets are code points.
`tokens` are the words that were labelled.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from palm_trainer.data.example import Example, FieldValue, LabelledSpan
from palm_trainer.data.formats.doccano import json_lines
from palm_trainer.data.formats.json_objects import JsonObject
from palm_trainer.data.formats.row_values import check_range, read_words, separate_spans
from palm_trainer.data.formats.text_files import Defects, FormatOptions, distinct_classes

NOT_ACCEPTED = "task whose answer is not 'accept' (left out)"
_ANSWERS = ("accept", "reject", "ignore")
_KEYS = ("text", "tokens", "spans", "label", "accept", "answer")
_BOOKKEEPING = ("_input_hash", "_task_hash", "_session_id", "_view_id", "_annotator_id", "_timestamp", "_is_binary")
_SETTINGS = ("options", "config", "style", "html")
_SPAN_KEYS = ("start", "end", "label", "text", "token_start", "token_end", "id", "source", "input_hash")


def is_prodigy(row: Mapping[str, Any]) -> bool:
    """Return True for a line that only Prodigy writes."""
    if "text" not in row:
        return False
    has_answer = row.get("answer") in _ANSWERS and ("spans" in row or "label" in row or "accept" in row)
    return "_task_hash" in row or "_input_hash" in row or has_answer


def parse(path: Path, options: FormatOptions, defects: Defects) -> Iterator[Example]:
    """Yield the examples of a file, one for each accepted line.

    Args:
        path: file to read.
        options: not used.
        defects: tally of content that is passed over.

    Raises:
        DataError: a line has another structure, or a span is no range of its text.
    """
    for row in json_lines(path, defects):
        answer = row.name("answer") or _ANSWERS[0]
        if answer not in _ANSWERS:
            raise row.fault("answer", "accept, reject or ignore")
        if answer != _ANSWERS[0]:
            defects.add(NOT_ACCEPTED, row.place)
        else:
            yield _example(row, defects)


def _example(row: JsonObject, defects: Defects) -> Example:
    row.note_unread((*_KEYS, *_BOOKKEEPING, *_SETTINGS), "a Prodigy task", defects)
    text = row.text("text")
    fields: dict[str, FieldValue] = {}
    if row.values.get("label") is not None:
        fields["label"] = row.given_name("label")
    if row.values.get("accept") is not None:
        fields["label"] = distinct_classes(_accepted(row), row.place, defects)
    if row.values.get("spans") is not None:
        spans = []
        for item in row.objects("spans"):
            item.note_unread(_SPAN_KEYS, "a span", defects)
            start = item.whole_number("start")
            end = item.whole_number("end")
            check_range(start, end, len(text), item.place)
            spans.append(LabelledSpan(start, end, item.given_name("label")))
        fields["slots"] = separate_spans(spans, f"{row.place}: spans", defects)
    words = None
    if row.items("tokens"):
        ranges = []
        for token in row.objects("tokens"):
            ranges.append([token.whole_number("start"), token.whole_number("end")])
        words = read_words(ranges, len(text), f"{row.place}: tokens")
    return Example(text, fields, words=words, source=row.place)


def _accepted(row: JsonObject) -> list[str]:
    """Return the names of the accepted options. Whole numbers are names as they are written."""
    names = []
    for item in row.items("accept"):
        if isinstance(item, bool) or not isinstance(item, str | int) or not str(item).strip():
            raise row.fault("accept", "a list of names")
        names.append(str(item).strip())
    return names

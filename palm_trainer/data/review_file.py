"""Lines of a review (`review.jsonl`): what a person decided about rows of the data.

`palm-train health` writes one JSON object for each finding, and its page fills in `decision`. A row is

    {"data": "bank", "split": "train", "file": "train.jsonl", "line": 7, "digest": "1f...", "field": "intent",
     "label": "a", "to": "b", "decision": "relabel"}

`decision` is `null` (open), `relabel` (the field becomes `to`), `drop` (the row goes) or `ignore` (the row is right).
`digest` is that of text, pair and field as they were reviewed. Values are written as in jsonl. With `start` and `end`
the spans `to` replace those that overlap this range, else the whole field becomes `to`. Classes are merged by

    {"data": "bank", "field": "intent", "merge": "a", "to": "b", "decision": "merge"}

Other keys are for readers of the file.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from palm_trainer.config.loader import DataConfig
from palm_trainer.data.example import Example
from palm_trainer.data.formats.json_objects import JsonObject, as_object
from palm_trainer.data.formats.json_values import parse_json
from palm_trainer.data.formats.jsonl import value_as_json
from palm_trainer.data.formats.text_files import check_readable, decode_text, split_lines

RELABEL = "relabel"
DROP = "drop"
MERGE = "merge"
IGNORE = "ignore"
_ROW_DECISIONS = (RELABEL, DROP, IGNORE)
_MERGE_DECISIONS = (MERGE, IGNORE)
_DIGEST_LENGTH = 16


@dataclass(frozen=True, slots=True)
class RowDecision:
    """A decision that changes a row.

    Args:
        place: `file:line` of the review.
        split: split of the data set.
        file: end of the path of the row's file.
        line: line of the row. None: its source names no line.
        digest: of the row when it was reviewed.
        field: that was reviewed. Empty: the whole row.
        to: value of the field as JSON. None: the row is dropped.
        start: first code point that `to` replaces spans in. None: `to` is the whole value.
        end: code point after the last.
    """

    place: str
    split: str
    file: str
    line: int | None
    digest: str
    field: str
    to: Any
    start: int | None = None
    end: int | None = None


@dataclass(frozen=True, slots=True)
class MergeDecision:
    """A decision that one class of a field becomes another. `place` is `file:line` of the review."""

    place: str
    field: str
    merged: str
    to: str


@dataclass
class Review:
    """The decisions of one data set that change it."""

    rows: list[RowDecision] = field(default_factory=list)
    merges: list[MergeDecision] = field(default_factory=list)


def row_digest(example: Example, field_name: str) -> str:
    """Return the digest of text, pair or context, and one field of a row. An empty name stands for no field."""
    value = example.fields.get(field_name)
    content = [example.text, example.inputs.second, None if value is None else value_as_json(value)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:_DIGEST_LENGTH]


def split_source(source: str) -> tuple[str, int | None]:
    """Return file and line of an example's source. A source without a line is a file as a whole."""
    file, separator, line = source.rpartition(":")
    if separator and line.isascii() and line.isdigit():
        return file, int(line)
    return source, None


def read_lines(path: Path) -> list[JsonObject]:
    """Return the objects of a review. An empty file has none.

    Raises:
        DataError: the file cannot be read, or a line is no object.
    """
    check_readable(path)
    content = path.read_bytes()
    if not content.strip():
        return []
    objects = []
    for number, line in enumerate(split_lines(decode_text(content, path)), 1):
        if line.strip():
            place = f"{path}:{number}"
            objects.append(as_object(parse_json(line, place, "write one object a line", is_line=True), place))
    return objects


def read_reviews(data: Mapping[str, DataConfig]) -> dict[str, Review]:
    """Read the reviews that data sets name, each file once. Return the decisions that change something by data set.

    Args:
        data: data sets of a configuration.

    Raises:
        DataError: a review cannot be read, or names a data set or a split that is not there.
    """
    lines_by_path: dict[Path, list[JsonObject]] = {}
    reviews = {}
    for name, settings in data.items():
        reviews[name] = Review()
        for path in dict.fromkeys(settings.review):
            if path not in lines_by_path:
                lines_by_path[path] = read_lines(path)
                _check_places(lines_by_path[path], data)
            for line in lines_by_path[path]:
                if line.string("data") == name:
                    _add_line(line, reviews[name])
    return reviews


def _check_places(lines: Sequence[JsonObject], data: Mapping[str, DataConfig]) -> None:
    """Check that the decided lines are about data that is there, so that none is passed over in silence."""
    for line in lines:
        if line.values.get("decision") in (None, IGNORE):
            continue
        name = line.string("data")
        if name not in data:
            raise line.fault("data", f"a data set of the configuration ({', '.join(data)})")
        if "merge" not in line.values and not data[name].paths(line.string("split")):
            raise line.fault("split", f"a split of the data set '{name}'")


def _add_line(line: JsonObject, review: Review) -> None:
    """Add the decision of a line to a review, if it changes something."""
    decision = line.values.get("decision")
    is_merge = "merge" in line.values
    allowed = _MERGE_DECISIONS if is_merge else _ROW_DECISIONS
    if decision is not None and decision not in allowed:
        raise line.fault("decision", f"null, {', '.join(allowed[:-1])} or {allowed[-1]}")
    if decision in (None, IGNORE):
        return
    if is_merge:
        merge = MergeDecision(line.place, line.text("field"), line.text("merge"), line.text("to"))
        review.merges.append(merge)
        return
    number = None if line.values.get("line") is None else line.whole_number("line")
    to = None
    if decision == RELABEL:
        line.text("field")
        to = line.values.get("to")
        if to is None:
            raise line.fault("to", "the new value of the field")
    start = end = None
    if line.values.get("start") is not None:
        start = line.whole_number("start")
        end = line.whole_number("end")
    place = (line.string("split"), line.text("file"), number, line.text("digest"), line.string("field"))
    review.rows.append(RowDecision(line.place, *place, to, start, end))

"""Findings as lines of a review. Decisions of an earlier review are kept."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from palm_trainer.config.atomic_files import write_output
from palm_trainer.config.loader import Config, DataConfig
from palm_trainer.data.example import LabelledSpan, spans_in
from palm_trainer.data.formats.jsonl import value_as_json
from palm_trainer.data.review_file import read_lines, row_digest, split_source
from palm_trainer.health.findings import Finding, Merge
from palm_trainer.health.rows import SPLITS, Row

Line: TypeAlias = dict[str, Any]
_ROW_KEYS = ("data", "split", "file", "line", "digest", "field", "start", "end")
_MERGE_KEYS = ("data", "field", "merge")


@dataclass
class Item:
    """What a person decides on: one label of one row, with everything that speaks against it."""

    line: Line
    row: Row
    findings: list[Finding] = field(default_factory=list)

    @property
    def score(self) -> float:
        """A number from 0 to 1 that grows with each finding."""
        right = 1.0
        for finding in self.findings:
            right *= 1.0 - min(0.999, max(0.0, finding.score))
        return 1.0 - right


@dataclass
class ReviewLines:
    """Lines of a review.

    Args:
        items: rows, the likeliest errors first.
        merges: lines about classes with their reasons, the likeliest first.
        decided: earlier decisions about which nothing was found this time.
    """

    items: list[Item]
    merges: list[tuple[Line, Merge]]
    decided: list[Line]

    def lines(self) -> list[Line]:
        """Return all lines in a stable order: by data set, split, file, line and field."""
        lines = self._all()
        return [lines[number] for number in self.order()]

    def order(self) -> list[int]:
        """Return the numbers of merges, items and kept lines, counted in this order, as the lines of the file."""
        lines = self._all()
        return sorted(range(len(lines)), key=lambda number: _order(lines[number]))

    def _all(self) -> list[Line]:
        lines = [line for line, _ in self.merges]
        lines += [item.line for item in self.items]
        return [*lines, *self.decided]


def make_lines(
    config: Config, findings: Sequence[Finding], merges: Sequence[Merge], earlier: Path | None
) -> ReviewLines:
    """Return the lines of a review.

    Args:
        config: the configuration, for the places of the files.
        findings: about rows. Those about one label of a row become one line.
        merges: about classes.
        earlier: an earlier review, whose decisions are kept. None: there is none.

    Raises:
        DataError: the earlier review cannot be read.
    """
    folders = {name: common_folder(data) for name, data in config.data.items()}
    decided = _read_decided(earlier)
    items: dict[tuple[Any, ...], Item] = {}
    for finding in sorted(findings, key=lambda finding: -finding.score):
        line = _row_line(finding, folders[finding.row.data])
        key = _key(line)
        if key not in items:
            items[key] = Item(line, finding.row)
        _add(items[key], finding)
    for key, item in items.items():
        _keep_decision(item.line, decided.pop(key, None))
    merge_lines = []
    for merge in sorted(merges, key=lambda merge: -merge.score):
        names = {"data": merge.data, "field": merge.field, "merge": merge.merged}
        line = {**names, "to": merge.to, "decision": None, "why": merge.why}
        _keep_decision(line, decided.pop(_key(line), None))
        merge_lines.append((line, merge))
    ordered = sorted(items.values(), key=lambda item: (-item.score, _order(item.line)))
    return ReviewLines(ordered, merge_lines, list(decided.values()))


def write_lines(path: Path, lines: Sequence[Line]) -> None:
    """Write a review. An existing file is replaced as a whole."""
    write_output(path, "".join(json_line(line) + "\n" for line in lines))


def json_line(line: Mapping[str, Any]) -> str:
    """Return a line as JSON, as a browser writes it."""
    text = json.dumps(line, ensure_ascii=False, separators=(",", ":"))
    try:
        text.encode()
    except UnicodeEncodeError:  # an unpaired surrogate from a JSON file
        return json.dumps(line, separators=(",", ":"))
    return text


def common_folder(data: DataConfig) -> str:
    """Return the deepest folder that holds all files of a data set, with a separator at its end."""
    folders = []
    for split in SPLITS:
        folders += [str(path.parent) for path in data.paths(split)]
    if len({os.path.isabs(folder) for folder in folders}) > 1:  # a name of a hub beside files
        return ""
    return os.path.join(os.path.commonpath(folders), "")


def _row_line(finding: Finding, folder: str) -> Line:
    row = finding.row
    example = row.example
    file, number = split_source(example.source)
    line: Line = {
        "data": row.data,
        "split": row.file_split,
        "file": file.removeprefix(folder),
        "line": number,
        "digest": row_digest(example, finding.field),
        "field": finding.field,
    }
    value = example.fields.get(finding.field)
    if finding.start is not None and finding.end is not None:
        line["start"] = finding.start
        line["end"] = finding.end
        spans: list[LabelledSpan] = []
        for span in spans_in(value or ()):
            if span.start < finding.end and finding.start < span.end:
                spans.append(span)
        value = tuple(spans)
    line["label"] = None if value is None else value_as_json(value)
    line["to"] = None
    line["decision"] = None
    line["signals"] = []
    line["text"] = example.text
    return line


def _add(item: Item, finding: Finding) -> None:
    """Add a finding to the item of its label. The suggestion is that of the finding with the highest score."""
    item.findings.append(finding)
    if finding.signal not in item.line["signals"]:
        item.line["signals"].append(finding.signal)
    if item.line["to"] is None and finding.to is not None:
        item.line["to"] = value_as_json(finding.to)


def _read_decided(earlier: Path | None) -> dict[tuple[Any, ...], Line]:
    """Return the lines of an earlier review that have a decision, by what they are about."""
    decided = {}
    if earlier is not None and earlier.exists():
        for line in read_lines(earlier):
            if line.values.get("decision") is not None:
                decided[_key(line.values)] = line.values
    return decided


def _keep_decision(line: Line, earlier: Line | None) -> None:
    if earlier is not None:
        line["decision"] = earlier["decision"]
        if earlier["decision"] != "ignore":
            line["to"] = earlier.get("to")


def _key(line: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what a line is about."""
    return tuple(line.get(key) for key in (_MERGE_KEYS if "merge" in line else _ROW_KEYS))


def _order(line: Mapping[str, Any]) -> tuple[Any, ...]:
    if "merge" in line:
        return (0, *(str(line.get(key)) for key in _MERGE_KEYS))
    split = line.get("split")
    number = SPLITS.index(split) if split in SPLITS else len(SPLITS)
    places = (line.get("line") or 0, line.get("field"), line.get("start") or 0, line.get("end") or 0)
    return (1, line.get("data"), number, line.get("file"), *places)

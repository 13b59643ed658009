"""Examples -> files. `jsonl` holds everything; the others hold what their form allows (`convert` tells what that was not)."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

from palm_trainer.errors import DataError
from palm_trainer.example import Example, FieldValue, LabelledSpan
from palm_trainer.reader.formats.jsonl import ANSWER
from palm_trainer.reader.formats.palm import SEPARATOR, TAG_COLUMNS
from palm_trainer.reader.formats.source import FormatOptions
from palm_trainer.reader.formats.tags import tags_from_spans

Write: TypeAlias = Callable[[Sequence[Example], Path, FormatOptions], None]

_SPAN_FIELDS = ("slots", "tags")
"""Fields that hold spans where no example shows it by having one."""


def span_fields(examples: Sequence[Example]) -> list[str]:
    """Names of the fields that hold spans of the text, in order of appearance."""
    names = dict.fromkeys(name for example in examples for name in example.fields if name != ANSWER)
    filled = {name: value for example in examples for name, value in example.fields.items() if value}
    return [n for n in names if (_spans(filled[n]) if n in filled else n in _SPAN_FIELDS)]


def class_fields(examples: Sequence[Example]) -> list[str]:
    """Names of the fields that hold classes, in order of appearance."""
    others = [*span_fields(examples), ANSWER]
    return [name for name in dict.fromkeys(n for e in examples for n in e.fields) if name not in others]


def write_jsonl(examples: Sequence[Example], path: Path, options: FormatOptions) -> None:
    """The project's own lines, which lose nothing but `source`."""
    rows = []
    for example in examples:
        row: dict[str, Any] = {"text": example.text}
        if example.pair is not None:
            row["text_pair"] = example.pair
        row |= {name: _json_value(value) for name, value in example.fields.items()}
        if example.words is not None:
            row["words"] = example.words
        rows.append(json.dumps(row, ensure_ascii=False))
    _write_lines(path, rows)


def write_joint(examples: Sequence[Example], path: Path, options: FormatOptions) -> None:
    """A directory with `seq.in`, `seq.out` (BIO) and `label`.

    Raises:
        DataError: for an example without a class: a line of `label` cannot be empty.
    """
    intent, slots = _main_field(class_fields(examples), "intent"), _main_field(span_fields(examples), "slots")
    columns: dict[str, list[str]] = {"seq.in": [], "seq.out": [], "label": []}
    for example in examples:
        label = _class_text(example.fields.get(intent, ""), options)
        if not label:
            raise DataError(
                f"{example.source}: no class, but format 'joint' has one in each line; write conll or jsonl"
            )
        pairs = [
            (word, tag) for word, tag in zip(*_words_and_tags(example, slots, options), strict=True) if word.strip()
        ]
        columns["seq.in"].append(" ".join(word for word, _ in pairs))
        columns["seq.out"].append(" ".join(re.sub(r"\s+", "_", tag) for _, tag in pairs))
        columns["label"].append(label)
    path.mkdir(parents=True)
    for name, rows in columns.items():
        _write_lines(path / name, rows)


def write_conll(examples: Sequence[Example], path: Path, options: FormatOptions) -> None:
    """`word<TAB>tag` lines (BIO), a blank line after each sentence, `# intent: NAME` above one that has a class."""
    intent, slots = _main_field(class_fields(examples), "intent"), _main_field(span_fields(examples), "slots")
    rows = []
    for example in examples:
        label = _class_text(example.fields.get(intent, ""), options)
        rows += [f"# intent: {label}"] if label else []
        rows += [
            f"{word}\t{_one_line(tag)}" for word, tag in zip(*_words_and_tags(example, slots, options), strict=True)
        ]
        rows.append("")
    _write_lines(path, rows)


def write_palm(examples: Sequence[Example], path: Path, options: FormatOptions) -> None:
    """PALM's table for sequence labels: `text_a`, a tag column a span field, a column a class field."""
    spans = {name: name if name in TAG_COLUMNS else "label" for name in span_fields(examples)}
    classes = [name for name in class_fields(examples) if name not in TAG_COLUMNS]
    rows = ["\t".join(["text_a", *spans.values(), *classes])]
    for example in examples:
        words, _ = _words_and_tags(example, "", options)
        cells = [SEPARATOR.join(words)]
        for name in spans:
            tags = _words_and_tags(example, name, options)[1] if name in example.fields else []
            cells.append(SEPARATOR.join(map(_one_line, tags)))
        cells += [_class_text(example.fields.get(name, ""), options) for name in classes]
        rows.append("\t".join(cells))
    _write_lines(path, rows)


def write_tsv(examples: Sequence[Example], path: Path, options: FormatOptions) -> None:
    """PALM's table for classification and matching: a column a class field, `text_a`, and `text_b` where there are pairs.

    Raises:
        DataError: where some examples have a second text and others none.
    """
    classes = class_fields(examples)
    alone = [example.source for example in examples if example.pair is None]
    if 0 < len(alone) < len(examples):
        raise DataError(
            f"{alone[0]}: no second text, which other examples have; format 'tsv' needs it in all, write jsonl"
        )
    pairs = [] if alone else ["text_b"]
    rows = ["\t".join([*classes, "text_a", *pairs])]
    for example in examples:
        cells = [_class_text(example.fields.get(name, ""), options) for name in classes]
        texts = [_one_line(example.text), *([_one_line(example.pair or "")] if pairs else [])]
        rows.append("\t".join([*cells, *texts]))
    _write_lines(path, rows)


WRITERS: Mapping[str, Write] = {
    "jsonl": write_jsonl,
    "joint": write_joint,
    "conll": write_conll,
    "palm": write_palm,
    "tsv": write_tsv,
}


def _spans(value: FieldValue) -> tuple[LabelledSpan, ...]:
    return tuple(item for item in value if isinstance(item, LabelledSpan))


def _main_field(names: Sequence[str], wanted: str) -> str:
    """The field that a format with one place for it holds: the one of that name, or else the first."""
    return wanted if wanted in names or not names else names[0]


def _json_value(value: FieldValue) -> object:
    if isinstance(value, str) or not _spans(value):
        return value
    rows = []
    for span in _spans(value):
        extra = {key: text for key, text in (("role", span.role), ("group", span.group)) if text}
        rows.append({"start": span.start, "end": span.end, "label": span.label} | extra)
    return rows


def _class_text(value: FieldValue, options: FormatOptions) -> str:
    if isinstance(value, str):
        return _one_line(value)
    return (options.label_separator or "#").join(_one_line(item) for item in value if isinstance(item, str))


def _one_line(text: str) -> str:
    return re.sub(r"[\t\r\n\x02]", " ", text)


def _words_and_tags(example: Example, name: str, options: FormatOptions) -> tuple[list[str], list[str]]:
    """Words and BIO tags. Text without given words is cut at white space and at the ends of spans (or into characters)."""
    spans = sorted(_spans(example.fields.get(name, ())), key=lambda span: span.start)
    ranges = example.words
    if ranges is None and not options.joiner:
        ranges = tuple((i, i + 1) for i in range(len(example.text)))
    elif ranges is None:
        all_spans = [span for value in example.fields.values() for span in _spans(value)]
        bounds = {bound for span in all_spans for bound in (span.start, span.end)}
        ranges = tuple(
            (left, right)
            for match in re.finditer(r"\S+", example.text)
            for left, right in _cut(match.start(), match.end(), bounds)
        )
    tags = tags_from_spans(spans, ranges)
    return [_one_line(example.text[start:end]) for start, end in ranges], tags


def _cut(start: int, end: int, bounds: set[int]) -> list[tuple[int, int]]:
    points = [start, *sorted(bound for bound in bounds if start < bound < end), end]
    return list(pairwise(points))


def _write_lines(path: Path, rows: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(row + "\n" for row in rows), encoding="utf-8", newline="\n")

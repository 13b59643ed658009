"""Examples -> files. `jsonl` holds everything; the others hold what their form allows (`convert` tells what that was not)."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

from palm_trainer.data.example import Example
from palm_trainer.data.formats.jsonl import as_row
from palm_trainer.data.formats.palm_tsv import SEPARATOR, TAG_COLUMNS
from palm_trainer.data.formats.tags import tags_from_spans
from palm_trainer.data.formats.text_fields import (
    choose_main_field,
    class_fields,
    class_text,
    select_spans,
    span_fields,
    to_one_line,
    write_lines,
)
from palm_trainer.data.formats.text_files import FormatOptions
from palm_trainer.data.formats.write_nested import write_clinc, write_parquet, write_rasa, write_squad
from palm_trainer.data.formats.write_tables import write_csv, write_json, write_text, write_tsv
from palm_trainer.errors import DataError

Write: TypeAlias = Callable[[Sequence[Example], Path, FormatOptions], None]


def write_jsonl(examples: Sequence[Example], path: Path, options: FormatOptions) -> None:
    """The project's own lines, which lose nothing but `source`."""
    write_lines(path, [json.dumps(as_row(example), ensure_ascii=False) for example in examples])


def write_joint(examples: Sequence[Example], path: Path, options: FormatOptions) -> None:
    """A directory with `seq.in`, `seq.out` (BIO) and `label`.

    Raises:
        DataError: for an example without a class: a line of `label` cannot be empty.
    """
    intent, slots = (
        choose_main_field(class_fields(examples), "intent"),
        choose_main_field(span_fields(examples), "slots"),
    )
    columns: dict[str, list[str]] = {"seq.in": [], "seq.out": [], "label": []}
    for example in examples:
        label = class_text(example.fields.get(intent, ""), options)
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
        write_lines(path / name, rows)


def write_conll(examples: Sequence[Example], path: Path, options: FormatOptions) -> None:
    """`word<TAB>tag` lines (BIO), a blank line after each sentence, `# intent: NAME` above one that has a class."""
    intent, slots = (
        choose_main_field(class_fields(examples), "intent"),
        choose_main_field(span_fields(examples), "slots"),
    )
    rows = []
    for example in examples:
        label = class_text(example.fields.get(intent, ""), options)
        rows += [f"# intent: {label}"] if label else []
        rows += [
            f"{word}\t{to_one_line(tag)}" for word, tag in zip(*_words_and_tags(example, slots, options), strict=True)
        ]
        rows.append("")
    write_lines(path, rows)


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
            cells.append(SEPARATOR.join(map(to_one_line, tags)))
        cells += [class_text(example.fields.get(name, ""), options) for name in classes]
        rows.append("\t".join(cells))
    write_lines(path, rows)


WRITERS: Mapping[str, Write] = {
    "jsonl": write_jsonl,
    "joint": write_joint,
    "conll": write_conll,
    "palm": write_palm,
    "tsv": write_tsv,
    "csv": write_csv,
    "json": write_json,
    "text": write_text,
    "squad": write_squad,
    "rasa": write_rasa,
    "clinc": write_clinc,
    "parquet": write_parquet,
}


def _words_and_tags(example: Example, name: str, options: FormatOptions) -> tuple[list[str], list[str]]:
    """Words and BIO tags. Text without given words is cut at white space and at the ends of spans (or into characters)."""
    spans = sorted(select_spans(example.fields.get(name, ())), key=lambda span: span.start)
    ranges = example.words
    if ranges is None and not options.joiner:
        ranges = tuple((i, i + 1) for i in range(len(example.text)))
    elif ranges is None:
        all_spans = [span for value in example.fields.values() for span in select_spans(value)]
        bounds = {bound for span in all_spans for bound in (span.start, span.end)}
        ranges = tuple(
            (left, right)
            for match in re.finditer(r"\S+", example.text)
            for left, right in _cut(match.start(), match.end(), bounds)
        )
    tags = tags_from_spans(spans, ranges)
    return [to_one_line(example.text[start:end]) for start, end in ranges], tags


def _cut(start: int, end: int, bounds: set[int]) -> list[tuple[int, int]]:
    points = [start, *sorted(bound for bound in bounds if start < bound < end), end]
    return list(pairwise(points))

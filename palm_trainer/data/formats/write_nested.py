"""Examples -> formats that nest: SQuAD and CLINC JSON, Rasa YAML, Parquet."""

import json
import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from palm_trainer.data.example import Example, LabelledSpan
from palm_trainer.data.formats.jsonl import ANSWER, as_row
from palm_trainer.data.formats.parquet import import_parquet
from palm_trainer.data.formats.text_fields import (
    choose_main_field,
    class_fields,
    class_text,
    select_spans,
    span_fields,
    write_lines,
)
from palm_trainer.data.formats.text_files import FormatOptions
from palm_trainer.errors import DataError

_SPAN_KEYS = ("start", "end", "label", "role", "group")


def write_squad(examples: Sequence[Example], path: Path, options: FormatOptions) -> None:
    """SQuAD 2.0 JSON, a paragraph for each run of questions on one passage.

    Raises:
        DataError: for an example without a passage.
    """
    paragraphs = []
    numbered = list(enumerate(examples))
    for passage, questions in groupby(numbered, key=lambda item: item[1].pair):
        asked = [_question(number, example) for number, example in questions]
        paragraphs.append({"context": passage, "qas": asked})
    document = {"version": "v2.0", "data": [{"title": "", "paragraphs": paragraphs}]}
    write_lines(path, [json.dumps(document, ensure_ascii=False, indent=1)])


def _question(number: int, example: Example) -> dict[str, Any]:
    if example.pair is None:
        raise DataError(f"{example.source}: no passage (second text), which format 'squad' asks about; write jsonl")
    _, _, identity = example.source.partition("#")
    question: dict[str, Any] = {"id": identity or str(number), "question": example.text}
    if ANSWER in example.fields:
        spans = select_spans(example.fields[ANSWER])
        question["answers"] = [{"text": example.pair[s.start : s.end], "answer_start": s.start} for s in spans]
        question["is_impossible"] = not spans
    return question


def write_clinc(examples: Sequence[Example], path: Path, options: FormatOptions) -> None:
    """CLINC's JSON with one split, which the path names after `#`.

    Raises:
        DataError: for a path without a split, an example without a class.
    """
    name, _, split = path.name.partition("#")
    if not split:
        raise DataError(f"{path}: no split; format 'clinc' holds several, write the path as {name}#SPLIT")
    intent = choose_main_field(class_fields(examples), "intent")
    rows = [[example.text, _class(example, intent, "clinc", options)] for example in examples]
    write_lines(path.with_name(name), [json.dumps({split: rows}, ensure_ascii=False, indent=0)])


def write_rasa(examples: Sequence[Example], path: Path, options: FormatOptions) -> None:
    """Rasa's NLU YAML 3.1, an item for each run of examples with one intent.

    Raises:
        DataError: for an example without a class.
    """
    intent, slots = (
        choose_main_field(class_fields(examples), "intent"),
        choose_main_field(span_fields(examples), "slots"),
    )
    rows = ['version: "3.1"', "nlu:"]
    for name, group in groupby(examples, key=lambda example: _class(example, intent, "rasa", options)):
        annotated = [_annotated(example, slots) for example in group]
        rows.append(f"- intent: {_scalar(name)}")
        if all(text.isprintable() and text == text.strip() for text in annotated):
            rows += ["  examples: |", *(f"    - {text}" for text in annotated)]
        else:  # a block of lines cannot hold these
            rows += ["  examples:", *(f"  - text: {json.dumps(text, ensure_ascii=False)}" for text in annotated)]
    write_lines(path, rows)


def _class(example: Example, intent: str, form: str, options: FormatOptions) -> str:
    name = class_text(example.fields.get(intent, ""), options)
    if not name:
        raise DataError(f"{example.source}: no class, which format '{form}' has for each example; write conll or jsonl")
    return name


def _scalar(text: str) -> str:
    """A name as it is where YAML reads it so, else in quotes."""
    return text if re.fullmatch(r"[A-Za-z_][\w/+-]*", text, re.ASCII) else json.dumps(text, ensure_ascii=False)


def _annotated(example: Example, slots: str) -> str:
    parts, position = [], 0
    for span in sorted(select_spans(example.fields.get(slots, ())), key=lambda span: span.start):
        parts += [example.text[position : span.start], _entity(example.text[span.start : span.end], span)]
        position = span.end
    return "".join([*parts, example.text[position:]])


def _entity(value: str, span: LabelledSpan) -> str:
    if not span.role and not span.group and not re.search(r"[():]", span.label):
        return f"[{value}]({span.label})"
    keys = {"entity": span.label, "role": span.role, "group": span.group}
    return f"[{value}]{json.dumps({key: text for key, text in keys.items() if text}, ensure_ascii=False)}"


def write_parquet(examples: Sequence[Example], path: Path, options: FormatOptions) -> None:
    """The columns of jsonl: texts and classes as strings, several classes as lists, spans as lists of structs, words as lists of ranges.

    Raises:
        DataError: pyarrow is not installed, or a field holds a class in some rows and several in others.
    """
    pq = import_parquet(path)
    import pyarrow as pa

    spans = pa.list_(pa.struct([(key, pa.int32() if key in ("start", "end") else pa.string()) for key in _SPAN_KEYS]))
    marked = [*span_fields(examples), ANSWER]
    types = {"text": pa.string(), "text_pair": pa.string()}
    rows = [as_row(example) for example in examples]
    for name in dict.fromkeys(key for row in rows for key in row):
        several = any(isinstance(row.get(name), list) for row in rows)
        types.setdefault(name, spans if name in marked else pa.list_(pa.string()) if several else pa.string())
    types["words"] = pa.list_(pa.list_(pa.int32()))
    held = [(name, kind) for name, kind in types.items() if any(name in row for row in rows)]
    for example, row in zip(examples, rows, strict=True):
        for name, kind in held:
            if isinstance(row.get(name), str) and kind != pa.string():
                raise DataError(
                    f"{example.source}: '{name}' is one class, in other rows a list; format 'parquet' has one kind a column, write jsonl"
                )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(held)), path)

"""Writers of nested formats: SQuAD and CLINC JSON, Rasa YAML, Parquet."""

import json
import re
from collections.abc import Sequence
from itertools import groupby, starmap
from operator import itemgetter
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


def write_squad(examples: Sequence[Example], path: Path, options: FormatOptions) -> None:
    """Write SQuAD 2.0 JSON, one paragraph for consecutive questions on the same passage.

    Args:
        examples: examples to write.
        path: new file.
        options: not used.

    Raises:
        DataError: an example has no passage.
    """
    paragraphs = []
    numbered = list(enumerate(examples))
    for passage, group in groupby(numbered, key=lambda item: item[1].pair):
        questions = list(starmap(_question, group))
        paragraphs.append({"context": passage, "qas": questions})
    document = {"version": "v2.0", "data": [{"title": "", "paragraphs": paragraphs}]}
    write_lines(path, [json.dumps(document, ensure_ascii=False, indent=1)])


def _question(number: int, example: Example) -> dict[str, Any]:
    passage = example.pair
    if passage is None:
        raise DataError(f"{example.source}: no passage (second text), which format 'squad' asks about; write jsonl")
    _, _, question_id = example.source.partition("#")
    question: dict[str, Any] = {"id": question_id or str(number), "question": example.text}
    if ANSWER in example.fields:
        spans = select_spans(example.fields[ANSWER])
        answers = []
        for span in spans:
            answers.append({"text": passage[span.start : span.end], "answer_start": span.start})
        question["answers"] = answers
        question["is_impossible"] = not spans
    return question


def write_clinc(examples: Sequence[Example], path: Path, options: FormatOptions) -> None:
    """Write CLINC's JSON with one split, which the path names after `#`.

    Args:
        examples: examples to write.
        path: new file, with `#SPLIT` after its name.
        options: options that the file will be read with.

    Raises:
        DataError: the path names no split, or an example has no class.
    """
    name, _, split = path.name.partition("#")
    if not split:
        raise DataError(f"{path}: no split; format 'clinc' holds several, write the path as {name}#SPLIT")
    intent = choose_main_field(class_fields(examples), "intent")
    rows = []
    for example in examples:
        rows.append([example.text, _class(example, intent, "clinc", options)])
    write_lines(path.with_name(name), [json.dumps({split: rows}, ensure_ascii=False, indent=0)])


def write_rasa(examples: Sequence[Example], path: Path, options: FormatOptions) -> None:
    """Write Rasa's NLU YAML 3.1, one item for consecutive examples with the same intent.

    Args:
        examples: examples to write.
        path: new file.
        options: options that the file will be read with.

    Raises:
        DataError: an example has no class.
    """
    intent = choose_main_field(class_fields(examples), "intent")
    slots = choose_main_field(span_fields(examples), "slots")
    rows = ['version: "3.1"', "nlu:"]
    for name, group in groupby(examples, key=lambda example: _class(example, intent, "rasa", options)):
        texts = [_annotated_text(example, slots) for example in group]
        rows.append(f"- intent: {yaml_scalar(name)}")
        if all(text.isprintable() and text == text.strip() for text in texts):
            rows.append("  examples: |")
            for text in texts:
                rows.append(f"    - {text}")
        else:  # a block of lines cannot hold these
            rows.append("  examples:")
            for text in texts:
                rows.append(f"  - text: {json.dumps(text, ensure_ascii=False)}")
    write_lines(path, rows)


def _class(example: Example, intent: str, format_name: str, options: FormatOptions) -> str:
    """Return the class of an example. Raises DataError without one."""
    name = class_text(example.fields.get(intent, ""), options)
    if not name:
        raise DataError(
            f"{example.source}: no class, which format '{format_name}' has for each example; write conll or jsonl"
        )
    return name


def yaml_scalar(text: str) -> str:
    """Quote a name, unless YAML reads it as it is."""
    return text if re.fullmatch(r"[A-Za-z_][\w/+-]*", text, re.ASCII) else json.dumps(text, ensure_ascii=False)


def _annotated_text(example: Example, slots: str) -> str:
    """Return the text with Rasa's annotations of its spans."""
    segments = []
    position = 0
    for span in sorted(select_spans(example.fields.get(slots, ())), key=lambda span: span.start):
        segments += [example.text[position : span.start], _entity(example.text[span.start : span.end], span)]
        position = span.end
    return "".join([*segments, example.text[position:]])


def _entity(value: str, span: LabelledSpan) -> str:
    if not span.role and not span.group and not re.search(r"[():]", span.label):
        return f"[{value}]({span.label})"
    keys = {"entity": span.label, "role": span.role, "group": span.group}
    filled = dict(filter(itemgetter(1), keys.items()))
    return f"[{value}]{json.dumps(filled, ensure_ascii=False)}"


def write_parquet(examples: Sequence[Example], path: Path, options: FormatOptions) -> None:
    """Write the columns of jsonl: strings, lists of classes, lists of span structs, and words as lists of ranges.

    Args:
        examples: examples to write.
        path: new file.
        options: not used.

    Raises:
        DataError: pyarrow is not installed, or a field holds a class in some rows and several in
            others.
    """
    parquet = import_parquet(path)
    import pyarrow as pa

    rows = list(map(as_row, examples))
    types = _column_types(rows, [*span_fields(examples), ANSWER])
    for example, row in zip(examples, rows, strict=True):
        for name, column_type in types.items():
            if isinstance(row.get(name), str) and column_type != pa.string():
                raise DataError(
                    f"{example.source}: '{name}' is one class, in other rows a list; "
                    "format 'parquet' has one kind a column, write jsonl"
                )
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = pa.schema(list(types.items()))
    parquet.write_table(pa.Table.from_pylist(rows, schema=schema), path)


def _column_types(rows: Sequence[dict[str, Any]], span_columns: Sequence[str]) -> dict[str, Any]:
    """Return the Arrow type of each column that occurs: texts first, words last."""
    import pyarrow as pa

    bounds = [("start", pa.int32()), ("end", pa.int32())]
    names = [("label", pa.string()), ("role", pa.string()), ("group", pa.string())]
    spans = pa.list_(pa.struct([*bounds, *names]))
    samples: dict[str, Any] = {}
    """A value of each column, a list if there is one."""
    for row in rows:
        for name, value in row.items():
            if name not in samples or isinstance(value, list):
                samples[name] = value
    types: dict[str, Any] = dict.fromkeys(filter(samples.__contains__, ("text", "text_pair")), pa.string())
    for name, value in samples.items():
        if name in span_columns:
            types.setdefault(name, spans)
        else:
            types.setdefault(name, pa.list_(pa.string()) if isinstance(value, list) else pa.string())
    if "words" in samples:
        types["words"] = pa.list_(pa.list_(pa.int32()))
    return types

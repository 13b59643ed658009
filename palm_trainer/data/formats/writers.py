"""Writers of all formats.

`jsonl` holds everything, the others what their structure allows (`convert` reports the losses).
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import TypeAlias

from palm_trainer.config.mappings import absent
from palm_trainer.data.example import Example
from palm_trainer.data.formats.jsonl import as_row
from palm_trainer.data.formats.palm_tsv import SEPARATOR, TAG_COLUMNS
from palm_trainer.data.formats.spacy_docs import write_spacy
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
from palm_trainer.data.formats.write_annotations import write_doccano, write_label_studio, write_prodigy
from palm_trainer.data.formats.write_nested import write_clinc, write_parquet, write_rasa, write_squad
from palm_trainer.data.formats.write_tables import write_csv, write_text, write_tsv
from palm_trainer.errors import DataError

Write: TypeAlias = Callable[[Sequence[Example], Path, FormatOptions], None]


def write_jsonl(examples: Sequence[Example], path: Path, options: FormatOptions) -> None:
    """Write the project's own lines, which lose nothing but `source`.

    Args:
        examples: examples to write.
        path: new file.
        options: not used.
    """
    rows = []
    for example in examples:
        rows.append(json.dumps(as_row(example), ensure_ascii=False))
    write_lines(path, rows)


def write_json(examples: Sequence[Example], path: Path, options: FormatOptions) -> None:
    """Write the objects of jsonl as one array.

    Args:
        examples: examples to write.
        path: new file.
        options: not used.
    """
    write_lines(path, [json.dumps(list(map(as_row, examples)), ensure_ascii=False, indent=0)])


def write_joint(examples: Sequence[Example], path: Path, options: FormatOptions) -> None:
    """Write a directory with `seq.in`, `seq.out` (BIO) and `label`.

    Args:
        examples: examples to write.
        path: new directory.
        options: options that the directory will be read with.

    Raises:
        DataError: an example has no class, since a line of `label` cannot be empty.
    """
    intent = choose_main_field(class_fields(examples), "intent")
    slots = choose_main_field(span_fields(examples), "slots")
    columns: dict[str, list[str]] = {"seq.in": [], "seq.out": [], "label": []}
    for example in examples:
        label = class_text(example.fields.get(intent, ""), options)
        if not label:
            raise DataError(
                f"{example.source}: no class, but format 'joint' has one in each line; write conll or jsonl"
            )
        words = []
        tags = []
        for word, tag in _tagged_words(example, slots, options):
            if word.strip():
                words.append(word)
                tags.append(re.sub(r"\s+", "_", tag))
        columns["seq.in"].append(" ".join(words))
        columns["seq.out"].append(" ".join(tags))
        columns["label"].append(label)
    path.mkdir(parents=True)
    for name, rows in columns.items():
        write_lines(path / name, rows)


def write_conll(examples: Sequence[Example], path: Path, options: FormatOptions) -> None:
    """Write `word<TAB>tag` lines (BIO), a blank line after each sentence, `# intent: NAME` above one with a class,
    and `# text: TEXT` above one whose words do not spell it.

    Args:
        examples: examples to write.
        path: new file.
        options: options that the file will be read with.
    """
    intent = choose_main_field(class_fields(examples), "intent")
    slots = choose_main_field(span_fields(examples), "slots")
    rows = []
    for example in examples:
        label = class_text(example.fields.get(intent, ""), options)
        if label:
            rows.append(f"# intent: {label}")
        tagged_words = _tagged_words(example, slots, options)
        joined = options.joiner.join(map(itemgetter(0), tagged_words))
        if example.text not in (joined, "") and example.text == to_one_line(example.text):
            rows.append(f"# text: {example.text}")
        for word, tag in tagged_words:
            rows.append(f"{word}\t{to_one_line(tag)}")
        rows.append("")
    write_lines(path, rows)


def write_palm(examples: Sequence[Example], path: Path, options: FormatOptions) -> None:
    """Write PALM's table for sequence labels: `text_a`, and a column for each span or class field.

    Args:
        examples: examples to write.
        path: new file.
        options: options that the file will be read with.
    """
    tag_columns = {}
    for name in span_fields(examples):
        tag_columns[name] = name if name in TAG_COLUMNS else "label"
    class_columns = absent(class_fields(examples), TAG_COLUMNS)
    rows = ["\t".join(["text_a", *tag_columns.values(), *class_columns])]
    for example in examples:
        words = map(itemgetter(0), _tagged_words(example, "", options))
        cells = [SEPARATOR.join(words)]
        for name in tag_columns:
            tags = []
            if name in example.fields:
                for _, tag in _tagged_words(example, name, options):
                    tags.append(to_one_line(tag))
            cells.append(SEPARATOR.join(tags))
        for name in class_columns:
            cells.append(class_text(example.fields.get(name, ""), options))
        rows.append("\t".join(cells))
    write_lines(path, rows)


HOLD_LISTS = ("jsonl", "json", "parquet", "label_studio", "doccano", "prodigy", "spacy")
"""Formats that hold several classes of a row as a list, the others join them."""

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
    "label_studio": write_label_studio,
    "doccano": write_doccano,
    "prodigy": write_prodigy,
    "spacy": write_spacy,
}


def _tagged_words(example: Example, field: str, options: FormatOptions) -> list[tuple[str, str]]:
    """Return words with the BIO tags of a field."""
    spans = sorted(select_spans(example.fields.get(field, ())), key=lambda span: span.start)
    ranges = example.words
    if ranges is None:
        ranges = _word_ranges(example, options)
    tagged_words = []
    for (start, end), tag in zip(ranges, tags_from_spans(spans, ranges), strict=True):
        tagged_words.append((to_one_line(example.text[start:end]), tag))
    return tagged_words


def _word_ranges(example: Example, options: FormatOptions) -> tuple[tuple[int, int], ...]:
    """Split a text at white space and the ends of spans, or into characters without a joiner."""
    if not options.joiner:
        return tuple(pairwise(range(len(example.text) + 1)))
    bounds: set[int] = set()
    for value in example.fields.values():
        for span in select_spans(value):
            bounds |= {span.start, span.end}
    ranges: list[tuple[int, int]] = []
    for match in re.finditer(r"\S+", example.text):
        inner_bounds = sorted(bound for bound in bounds if match.start() < bound < match.end())
        ranges += pairwise([match.start(), *inner_bounds, match.end()])
    return tuple(ranges)

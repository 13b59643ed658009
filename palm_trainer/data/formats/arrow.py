"""Rows of Arrow tables -> examples: what Parquet files and Hugging Face datasets share.

Columns are those of `jsonl` (`text`, `text_pair`, classes, lists of classes, spans), and what public data sets have in
their place: `tokens` or `words` with lists of tags beside them (`ner_tags`: spans), `question`, `context` and `answers`
(SQuAD), `sentence1`/`sentence2`, `premise`/`hypothesis`, `question1`/`question2`. Numbers of a `ClassLabel` become its
names, other numbers class names; `id` and `idx` are not read. `columns` names the columns that are read.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from palm_trainer.data.example import Example
from palm_trainer.data.formats.columns import NO_CLASS
from palm_trainer.data.formats.jsonl import ANSWER, row_example, spans_as_json
from palm_trainer.data.formats.squad import UNANSWERED, locate_answer
from palm_trainer.data.formats.tags import SCHEMES, spans_from_tags
from palm_trainer.data.formats.text_files import Defects, FormatOptions, class_value, join_words
from palm_trainer.errors import DataError

UNREAD = ("id", "idx", "guid")
TOKENS = ("tokens", "words")
_TEXTS = {"text_a": "text", "sentence": "text", "text_b": "text_pair", "context": "text_pair"}
_TEXTS |= dict.fromkeys(("question", "sentence1", "premise", "question1"), "text")
_TEXTS |= dict.fromkeys(("sentence2", "hypothesis", "question2"), "text_pair")
NOT_TAGS = "column '{}' beside the tokens: no tags of scheme '{}' (left out)"


@dataclass(frozen=True)
class _Layout:
    """How the columns of a table are read."""

    columns: tuple[str, ...]
    texts: Mapping[str, str]
    """Column -> `text` or `text_pair`."""
    tokens: str | None
    names: Mapping[str, Sequence[str]]
    """ClassLabel columns -> names."""


def examples(
    batches: Iterable[Any], schema: Any, path: object, options: FormatOptions, defects: Defects
) -> Iterator[Example]:
    """Examples of record batches (or tables) with one schema, a row each, `source` being `path: row N`.

    Raises:
        DataError: no text among the columns, one of `columns` missing, or a row that jsonl would not hold either.
    """
    layout = _layout(schema, path, options)
    number = 0
    for batch in batches:
        for row in batch.to_pylist():
            number += 1
            where = f"{path}: row {number}"
            yield _example({name: row[name] for name in layout.columns}, layout, where, options, defects)


def _layout(schema: Any, path: object, options: FormatOptions) -> _Layout:
    known = list(schema.names)
    missing = [name for name in options.columns if name not in known]
    if missing:
        raise DataError(f"{path}: no column '{missing[0]}' (it has {', '.join(known)}); change `columns`")
    columns = options.columns or tuple(name for name in known if name not in UNREAD)
    tokens = next((name for name in TOKENS if name in columns and "text" not in columns), None)
    texts: dict[str, str] = {}
    for wanted in ("text", "text_pair"):
        named = [wanted] if wanted in columns else [name for name in columns if _TEXTS.get(name) == wanted]
        if len(named) > 1:
            raise DataError(
                f"{path}: columns {' and '.join(named)} could both be the {wanted}; say which with `columns`"
            )
        texts |= dict.fromkeys(named, wanted)
    if tokens is None and "text" not in texts.values():
        raise DataError(
            f"{path}: no text among the columns {', '.join(columns)}; rename one to `text`, or name the columns with `columns`"
        )
    return _Layout(columns, texts, tokens, _class_names(schema))


def _class_names(schema: Any) -> dict[str, Sequence[str]]:
    """Names of ClassLabel columns and of lists of them, from what `datasets` writes beside the schema."""
    features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features") or {}
    found = {}
    for name, feature in features.items():
        inner = feature.get("feature", feature) if isinstance(feature, dict) else {}
        if isinstance(inner, dict) and inner.get("_type") == "ClassLabel" and inner.get("names"):
            found[name] = inner["names"]
    return found


def _example(row: dict[str, Any], layout: _Layout, where: str, options: FormatOptions, defects: Defects) -> Example:
    made: dict[str, Any] = {name: row.pop(column) for column, name in layout.texts.items()}
    row = {name: _named(value, layout.names.get(name), name, where) for name, value in row.items()}
    if layout.tokens is not None:
        tokens = row.pop(layout.tokens)
        if not isinstance(tokens, list) or not all(isinstance(token, str) and token for token in tokens) or not tokens:
            raise DataError(f"{where}: '{layout.tokens}' is {tokens!r}; it must be a list of words")
        made["text"], words = join_words(tokens, options.joiner)
        for name in [name for name, value in row.items() if isinstance(value, list) and len(value) == len(tokens)]:
            if (spans := _spans(name, row.pop(name), words, where, options, defects)) is not None:
                made[name] = spans
        made["words"] = words
    for name, value in row.items():
        if name == "words":
            made[name] = value
            continue
        made |= _field(name, value, made.get("text_pair"), where, options, defects)
    return row_example(made, where)


def _named(value: Any, names: Sequence[str] | None, column: str, where: str) -> Any:
    """Numbers as the names of their class; -1 is no class."""
    if names is None or value is None:
        return value
    if isinstance(value, list):
        return [_named(item, names, column, where) for item in value]
    if value == -1:
        return None
    if not isinstance(value, int) or not 0 <= value < len(names):
        raise DataError(f"{where}: '{column}' is {value!r}, but has {len(names)} classes; correct it")
    return names[value]


def _spans(
    name: str,
    tags: list[Any],
    words: Sequence[tuple[int, int]],
    where: str,
    options: FormatOptions,
    defects: Defects,
) -> list[dict[str, Any]] | None:
    prefixes = tuple(f"{prefix}-" for prefix in SCHEMES[options.scheme])
    if not all(isinstance(tag, str) and (tag == "O" or tag.startswith(prefixes)) for tag in tags):
        defects.add(NOT_TAGS.format(name, options.scheme), where)
        return None
    places = [f"{where}: '{name}' {position}" for position in range(1, len(tags) + 1)]
    return spans_as_json(spans_from_tags(tags, words, options.scheme, places, defects))


def _field(
    name: str, value: Any, pair: str | None, where: str, options: FormatOptions, defects: Defects
) -> dict[str, Any]:
    """What one column gives, as jsonl has it."""
    if isinstance(value, dict) and {"text", "answer_start"} <= set(value) and pair is not None:
        given = list(zip(value["text"], value["answer_start"], strict=True))
        spans = {span for text, start in given if (span := locate_answer(pair, text, start, where, defects))}
        if given and not spans:
            defects.add(UNANSWERED, where)
            return {}
        return {ANSWER: spans_as_json(sorted(spans, key=lambda s: (s.start, s.end)))}
    if isinstance(value, list):
        return {name: [_item(item) for item in value]}
    if isinstance(value, int | float):
        value = str(value)
    if isinstance(value, str) and not value.strip():
        defects.add(NO_CLASS, where)
        return {}
    if isinstance(value, str) and options.label_separator is not None:
        return {name: list(class_value(value, options.label_separator))}
    return {name: value}


def _item(item: Any) -> Any:
    """An element of a list: a span without its empty keys, a class as text, the rest as it is."""
    if isinstance(item, dict):
        return {key: value for key, value in item.items() if value is not None}
    return str(item) if isinstance(item, int | float) else item

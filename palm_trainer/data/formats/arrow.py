"""Rows of Arrow tables, shared by Parquet files and Hugging Face datasets.

Columns are those of `jsonl` (`text`, `text_pair`, classes, lists of classes, spans), or those of
public data sets: `tokens` or `words` with lists of tags beside them (`ner_tags`: spans),
`question`, `context` and `answers` (SQuAD), `sentence1`/`sentence2`, `premise`/`hypothesis`,
`question1`/`question2`. Numbers of a `ClassLabel` are replaced by their names, other numbers become
class names. `id` and `idx` are not read. `columns` names the columns to read.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from palm_trainer.config.mappings import absent, first_repeated, select_keys
from palm_trainer.data.example import Example
from palm_trainer.data.formats.columns import NO_CLASS
from palm_trainer.data.formats.json_values import parse_json
from palm_trainer.data.formats.jsonl import ANSWER, row_example, spans_as_json
from palm_trainer.data.formats.squad import locate_answers
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
    """Meaning of the columns of a table.

    Args:
        columns: names of the columns to read.
        texts: `text` or `text_pair` for each text column.
        tokens: column of the words, if there is one.
        class_names: names of the classes for each ClassLabel column.
    """

    columns: tuple[str, ...]
    texts: Mapping[str, str]
    tokens: str | None
    class_names: Mapping[str, Sequence[str]]


def examples(
    batches: Iterable[Any], schema: Any, path: object, options: FormatOptions, defects: Defects
) -> Iterator[Example]:
    """Yield the examples of record batches (or tables) with one schema, a row each, with `path: row N` as `source`.

    Args:
        batches: record batches or tables.
        schema: their Arrow schema.
        path: file or address, for messages.
        options: format options.
        defects: tally of repaired defects.

    Raises:
        DataError: there is no text column, one of `columns` is missing, or a row is invalid in
            jsonl too.
    """
    layout = _layout(schema, path, options)
    number = 0
    for batch in batches:
        for row in batch.to_pylist():
            number += 1
            cells = select_keys(row, layout.columns)
            yield _example(cells, layout, f"{path}: row {number}", options, defects)


def _layout(schema: Any, path: object, options: FormatOptions) -> _Layout:
    available = list(schema.names)
    repeated = first_repeated(available)
    if repeated is not None:
        raise DataError(f"{path}: column '{repeated}' stands twice; rename one of them")
    missing = absent(options.columns, available)
    if missing:
        raise DataError(f"{path}: no column '{missing[0]}' (it has {', '.join(available)}); change `columns`")
    columns = options.columns or tuple(absent(available, UNREAD))
    tokens = None
    if "text" not in columns:
        tokens = next(filter(columns.__contains__, TOKENS), None)
    texts: dict[str, str] = {}
    for role in ("text", "text_pair"):
        candidates = _text_columns(columns, role)
        if len(candidates) > 1:
            raise DataError(
                f"{path}: columns {' and '.join(candidates)} could both be the {role}; say which with `columns`"
            )
        texts |= dict.fromkeys(candidates, role)
    if tokens is None and "text" not in texts.values():
        raise DataError(
            f"{path}: no text among the columns {', '.join(columns)}; "
            "rename one to `text`, or name the columns with `columns`"
        )
    return _Layout(columns, texts, tokens, _class_names(schema, path))


def _text_columns(columns: Sequence[str], role: str) -> list[str]:
    """Return the columns that can be the text or the pair. A column of that very name excludes all others."""
    if role in columns:
        return [role]
    candidates = []
    for name in columns:
        if _TEXTS.get(name) == role:
            candidates.append(name)
    return candidates


def _class_names(schema: Any, path: object) -> dict[str, Sequence[str]]:
    """Return the names of ClassLabel columns and lists of them, from the metadata that `datasets` writes.

    Raises:
        DataError: the metadata has another structure.
    """
    features = _features((schema.metadata or {}).get(b"huggingface", b"{}"), path)
    class_names: dict[str, Sequence[str]] = {}
    for name, feature in features.items():
        element = feature.get("feature", feature) if isinstance(feature, dict) else {}
        names = element.get("names") if isinstance(element, dict) and element.get("_type") == "ClassLabel" else None
        if not names:
            continue
        if not isinstance(names, list) or not all(isinstance(label, str) for label in names):
            raise DataError(f"{path}: names of the classes of '{name}' must be a list of strings; write the file again")
        class_names[name] = names
    return class_names


def _features(metadata: bytes, path: object) -> dict[str, Any]:
    """Return the features that the metadata describes, by column."""
    fault = f"metadata `huggingface` of {path}"
    try:
        document = parse_json(metadata.decode(), str(path), "write the file again", subject=fault)
    except UnicodeDecodeError:
        raise DataError(f"{path}: {fault} is not UTF-8; write the file again") from None
    info = document.get("info", {}) if isinstance(document, dict) else None
    features = info.get("features") or {} if isinstance(info, dict) else None
    if not isinstance(features, dict):
        raise DataError(f"{path}: {fault} must hold an object `info.features`; write the file again")
    return features


def _example(row: dict[str, Any], layout: _Layout, source: str, options: FormatOptions, defects: Defects) -> Example:
    """Convert a row to an example by way of a jsonl row. `row` is emptied."""
    converted: dict[str, Any] = {}
    for column, role in layout.texts.items():
        converted[role] = row.pop(column)
    for name, class_names in layout.class_names.items():
        if name in row:
            row[name] = _class_name(row[name], class_names, name, source)
    if layout.tokens is not None:
        tokens = row.pop(layout.tokens)
        if not isinstance(tokens, list) or not all(isinstance(token, str) and token for token in tokens) or not tokens:
            raise DataError(f"{source}: '{layout.tokens}' is {tokens!r}; it must be a list of words")
        converted["text"], words = join_words(tokens, options.joiner)
        for name, value in list(row.items()):
            if not isinstance(value, list) or len(value) != len(tokens):
                continue
            spans = _spans(name, row.pop(name), words, source, options, defects)
            if spans is not None:
                converted[name] = spans
        converted["words"] = words
    for name, value in row.items():
        if name == "words":
            converted[name] = value
        else:
            converted |= _field(name, value, converted.get("text_pair"), source, options, defects)
    return row_example(converted, source, defects)


def _class_name(value: Any, names: Sequence[str], column: str, source: str) -> Any:
    """Replace numbers by the names of their classes. -1 means no class."""
    if value is None:
        return None
    if isinstance(value, list):
        return [_class_name(item, names, column, source) for item in value]
    if value == -1:
        return None
    if not isinstance(value, int) or not 0 <= value < len(names):
        raise DataError(f"{source}: '{column}' is {value!r}, but has {len(names)} classes; correct it")
    return names[value]


def _spans(
    name: str,
    tags: list[Any],
    words: Sequence[tuple[int, int]],
    source: str,
    options: FormatOptions,
    defects: Defects,
) -> list[dict[str, Any]] | None:
    """Convert the tags of words to JSON spans; None if they are no tags of the scheme."""
    prefixes = tuple(f"{prefix}-" for prefix in SCHEMES[options.scheme])
    if not all(isinstance(tag, str) and (tag == "O" or tag.startswith(prefixes)) for tag in tags):
        defects.add(NOT_TAGS.format(name, options.scheme), source)
        return None
    tag_sources = [f"{source}: '{name}' {position}" for position in range(1, len(tags) + 1)]
    return spans_as_json(spans_from_tags(tags, words, options.scheme, tag_sources, defects))


def _field(
    name: str, value: Any, pair: str | None, source: str, options: FormatOptions, defects: Defects
) -> dict[str, Any]:
    """Convert one column to a jsonl field; empty if it holds no label."""
    if isinstance(value, dict) and {"text", "answer_start"} <= set(value) and pair is not None:
        try:
            answers = list(zip(value["text"], value["answer_start"], strict=True))
            spans = locate_answers(pair, answers, source, defects)
        except (TypeError, ValueError, AttributeError):
            raise DataError(
                f"{source}: '{name}' must hold as many texts as starts (strings, numbers); correct the row"
            ) from None
        return {} if spans is None else {ANSWER: spans_as_json(spans)}
    if isinstance(value, list):
        return {name: list(map(_item, value))}
    if isinstance(value, int | float):
        value = str(value)
    if isinstance(value, str) and not value.strip():
        defects.add(NO_CLASS, source)
        return {}
    if isinstance(value, str) and options.label_separator is not None:
        return {name: list(class_value(value, options.label_separator))}
    return {name: value}


def _item(item: Any) -> Any:
    """Convert an element of a list: a span without its empty keys, a number as text, anything else unchanged."""
    if isinstance(item, dict):
        return {key: value for key, value in item.items() if value is not None}
    return str(item) if isinstance(item, int | float) else item

"""Rows of named values, shared by jsonl, JSON arrays, Parquet files and Hugging Face data sets.

All of them read the same row alike. Names of the text and its pair are those of
`palm_trainer.data.formats.columns`. A list in `context` holds the turns before a text, the newest last, and one in
`requested_slots` the names of slots that the system asked for. `tokens` or `words` hold the words of a row, with lists of tags
beside them (`ner_tags`: spans). `answers` with `text` and `answer_start` are SQuAD's. Numbers become
class names. `id`, `idx` and `guid` are not read, unless `columns` names them.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from palm_trainer.config.mappings import absent
from palm_trainer.data.example import Context, Example, FieldValue, LabelledSpan
from palm_trainer.data.formats.columns import NO_CLASS, UNREAD, class_cell, find_texts, unread_kind
from palm_trainer.data.formats.row_values import ANSWER, SPAN_FIELDS, read_field, read_words
from palm_trainer.data.formats.squad import check_answer, locate_answers
from palm_trainer.data.formats.tags import SCHEMES, spans_from_tags
from palm_trainer.data.formats.text_files import Defects, FormatOptions, align_words, join_words
from palm_trainer.errors import DataError

TOKENS = ("tokens", "words")
CONTEXT = "context"
REQUESTED_SLOTS = "requested_slots"
NOT_TAGS = "column '{}' beside the tokens: no tags of scheme '{}' (left out)"
NOT_ALIGNED = "text that its tokens do not spell (the joined tokens are used)"
_ANSWER_KEYS = {"text", "answer_start"}
_TAG = re.compile(r"O|[BIESLU]-\S+")
_ONLY_SPANS = "slots"
"""The field that holds no class in any row. Fields called `tags` or `entities` may hold topics or names."""


@dataclass(frozen=True)
class Layout:
    """Meaning of the names of a row.

    Args:
        columns: names that are read.
        unread: description of each name that is passed over.
        texts: `text` or `text_pair` for each text column.
        class_names: names of the classes for each ClassLabel column.
    """

    columns: tuple[str, ...]
    unread: Mapping[str, str]
    texts: Mapping[str, str]
    class_names: Mapping[str, Sequence[str]] = field(default_factory=dict)


def find_layout(
    available: Sequence[str],
    source: object,
    options: FormatOptions,
    class_names: Mapping[str, Sequence[str]] | None = None,
) -> Layout:
    """Return the meaning of the names that a row or table has.

    Args:
        available: the names.
        source: place of the row or table, for messages.
        options: format options.
        class_names: names of the classes for each ClassLabel column.

    Raises:
        DataError: there is no text, or several names could be it.
    """
    columns = tuple(absent(available, UNREAD))
    if options.columns:
        columns = tuple(filter(available.__contains__, options.columns))
    texts = find_texts(columns, source)
    if "text" not in texts.values() and not any(name in columns for name in TOKENS):
        raise DataError(
            f"{source}: no text among the columns {', '.join(available) or 'none'}; "
            "rename one to `text`, or name the columns with `columns`"
        )
    unread = {}
    for name in absent(available, columns):
        unread[name] = unread_kind(name, options.columns)
    return Layout(columns, unread, texts, class_names or {})


def row_example(
    row: Mapping[str, Any], layout: Layout, source: str, options: FormatOptions, defects: Defects
) -> Example:
    """Convert a row to an example.

    Args:
        row: values by name.
        layout: meaning of the names.
        source: `file:line`, for messages.
        options: format options.
        defects: tally of repaired defects.

    Raises:
        DataError: a text is missing, or a value is of no known kind.
    """
    for name, kind in layout.unread.items():
        if row.get(name) not in (None, "", [], {}):
            defects.add(kind, source)
    cells: dict[str, Any] = {}
    for name in layout.columns:
        value = row.get(name)
        names = layout.class_names.get(name)
        cells[name] = value if names is None else _class_name(value, names, f"{source}: '{name}'", defects)
    text: str | None = None
    pair: str | None = None
    for name, role in layout.texts.items():
        if role == "text":
            text = _text(cells.pop(name), name, source)
        else:
            pair = _pair(cells.pop(name), name, source)
    context = None if pair is not None else pop_context(cells, source)
    fields: dict[str, FieldValue] = {}
    words = None
    tokens = _pop_tokens(cells, source, is_needed=text is None)
    if tokens is not None:
        text, words = _tokenized(text, tokens, source, options, defects)
        for name in list(cells):
            value = cells[name]
            if isinstance(value, list) and len(value) == len(tokens):
                spans = _spans(name, cells.pop(name), words, source, options, defects)
                if spans is not None:
                    fields[name] = spans
    assert text is not None
    if "words" in cells:
        words = read_words(cells.pop("words"), len(text), source)
    for name, value in cells.items():
        place = f'{source}: "{name}"'
        _check_tags(value, place, has_tokens=tokens is not None)
        if _is_answers(value, pair):
            name, value = ANSWER, _answers(value, pair or "", place, defects)
        else:
            value = _field_value(name, value, text, pair, place, options, defects)
        if value is not None:
            fields[name] = value
    return Example(text, fields, pair=pair, words=words, source=source, context=context)


def _text(value: Any, name: str, source: str) -> str:
    """Return the text of a row; a whole number as it is written."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f'{source}: "{name}" is {value!r}; it must be a string with at least one character')
    return value


def _pair(value: Any, name: str, source: str) -> str | None:
    """Return the second text of a row, None without one."""
    if isinstance(value, str) and not value.strip():
        raise DataError(
            f'{source}: "{name}" is {value!r}; it must be a string with at least one character, or left out'
        )
    return None if value is None else _text(value, name, source)


def pop_context(row: dict[str, Any], source: str) -> Context | None:
    """Remove the context of a row, and return it; None where there is none.

    Args:
        row: values by name. A single string is no context but a class, as in every other column.
        source: `file:line`, for messages.

    Raises:
        DataError: a list of it holds anything but strings.
    """
    texts: dict[str, tuple[str, ...]] = {}
    for name in (CONTEXT, REQUESTED_SLOTS):
        value = row.get(name)
        if not isinstance(value, list):
            continue
        if not all(isinstance(text, str) for text in value):
            raise DataError(f'{source}: "{name}" must be a list of strings, got {value!r}. Write the texts alone.')
        texts[name] = tuple(filter(str.strip, row.pop(name)))
    context = Context(texts.get(CONTEXT, ()), texts.get(REQUESTED_SLOTS, ()))
    return context if context.turns or context.requested_slots else None


def _pop_tokens(cells: dict[str, Any], source: str, *, is_needed: bool) -> list[str] | None:
    """Remove the words of a row, and return them; None if it has none."""
    for name in TOKENS:
        tokens = cells.get(name)
        is_list = isinstance(tokens, list) and bool(tokens)
        if is_list and all(isinstance(token, str) and token for token in tokens or ()):
            del cells[name]
            return tokens
        if is_needed and name in cells:
            raise DataError(f"{source}: '{name}' is {tokens!r}; it must be a list of words")
    return None


def _tokenized(
    text: str | None, tokens: Sequence[str], source: str, options: FormatOptions, defects: Defects
) -> tuple[str, tuple[tuple[int, int], ...]]:
    """Return the text of a row with the ranges of its words: its own text, if the words spell it."""
    if text is not None:
        words = align_words(text, tokens)
        if words is not None:
            return text, words
        defects.add(NOT_ALIGNED, source)
    return join_words(tokens, options.joiner)


def _class_name(value: Any, names: Sequence[str], place: str, defects: Defects) -> Any:
    """Replace numbers by the names of their classes. -1 means no class."""
    if value is None:
        return None
    if isinstance(value, list):
        return [_class_name(item, names, place, defects) for item in value]
    if value == -1:
        defects.add(NO_CLASS, place)
        return None
    if not isinstance(value, int) or not 0 <= value < len(names):
        raise DataError(f"{place} is {value!r}, but has {len(names)} classes; correct it")
    return names[value]


def _spans(
    name: str,
    tags: list[Any],
    words: Sequence[tuple[int, int]],
    source: str,
    options: FormatOptions,
    defects: Defects,
) -> tuple[LabelledSpan, ...] | None:
    """Convert the tags of words to spans; None if they are no tags of the scheme."""
    prefixes = tuple(f"{prefix}-" for prefix in SCHEMES[options.scheme])
    if not all(isinstance(tag, str) and (tag == "O" or tag.startswith(prefixes)) for tag in tags):
        defects.add(NOT_TAGS.format(name, options.scheme), source)
        return None
    tag_sources = [f"{source}: '{name}' {position}" for position in range(1, len(tags) + 1)]
    return spans_from_tags(tags, words, options.scheme, tag_sources, defects)


def _is_answers(value: Any, pair: str | None) -> bool:
    """Return True for the answers of SQuAD's tables."""
    return isinstance(value, dict) and set(value) >= _ANSWER_KEYS and pair is not None


def _answers(value: dict[str, Any], pair: str, place: str, defects: Defects) -> tuple[LabelledSpan, ...] | None:
    """Return the spans of SQuAD's answers; None if none of them occurs."""
    for name in absent(value, _ANSWER_KEYS):
        defects.add(unread_kind(f"answers.{name}"), place)
    texts = value["text"]
    starts = value["answer_start"]
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        raise DataError(f"{place} must hold as many texts as starts (strings, numbers), got {value!r}; correct the row")
    answers = list(zip(texts, starts, strict=True))
    for text, start in answers:
        check_answer(text, start, place)
    return locate_answers(pair, answers, place, defects)


def _field_value(
    name: str, value: Any, text: str, pair: str | None, place: str, options: FormatOptions, defects: Defects
) -> FieldValue | None:
    """Convert one value to a field; None if it holds no label."""
    if value is None:
        return None
    if name in SPAN_FIELDS:
        _check_spans(value, place, may_be_class=name != _ONLY_SPANS)
    if not isinstance(value, list | dict):
        return class_cell("" if _is_missing(value) else str(value), options.label_separator, place, defects)
    is_answer = name == ANSWER and pair is not None
    labelled_text = pair if is_answer and pair is not None else text
    items = list(map(_item, value)) if isinstance(value, list) else value
    return read_field(items, len(labelled_text), place, defects, is_answer=is_answer)


def _is_missing(value: Any) -> bool:
    """Return True for the number that tables have in place of a missing value."""
    return isinstance(value, float) and math.isnan(value)


def _check_spans(value: Any, place: str, *, may_be_class: bool) -> None:
    """Check a value of a field that holds spans by its name.

    Args:
        value: its value.
        place: `file:line: "field"`, for messages.
        may_be_class: strings are allowed, too.

    Raises:
        DataError: it holds a number, true or false, or a string that is not allowed.
    """
    items = value if isinstance(value, list) else [value]
    wrong_types = (int, float) if may_be_class else (int, float, str)
    if value != "" and not _is_missing(value) and any(isinstance(item, wrong_types) for item in items):
        raise DataError(f"{place} must be a list of spans, got {value!r}. Correct it, or give the field another name.")


def _check_tags(value: Any, place: str, *, has_tokens: bool) -> None:
    """Check that a value is not a list of tags whose words are not there: they would be taken for classes.

    Args:
        value: value of a field that has not as many items as the row has tokens.
        place: `file:line: "field"`, for messages.
        has_tokens: the row has a list of words.

    Raises:
        DataError: it is such a list, or a string of tags with blanks between them.
    """
    tags = value.split() if isinstance(value, str) else value
    if not isinstance(tags, list) or not all(isinstance(tag, str) and _TAG.fullmatch(tag) for tag in tags):
        return
    is_list_of_row = has_tokens and isinstance(value, list)
    if tags and (is_list_of_row or ("O" in tags and set(tags) != {"O"})):
        raise DataError(
            f"{place} must have a tag for each word of a list `tokens`, got {value!r}. "
            "Write the words as `tokens`, the tags as a list, or both as spans."
        )


def _item(item: Any) -> Any:
    """Convert an element of a list: a span without its empty keys, a class as text without outer blanks."""
    if isinstance(item, dict):
        return {key: value for key, value in item.items() if value is not None}
    return str(item).strip() if isinstance(item, str | int | float) else item

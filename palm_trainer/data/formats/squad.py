"""SQuAD JSON 1.1 and 2.0: the question is the text, its passage the pair.

The field `answer` holds spans of the PAIR.

Several annotators may give several spans, which may overlap. `()` says that the passage has no
answer (`is_impossible`). A question without `answers` is unlabelled. Offsets are checked against
the passage: an answer that stands elsewhere in it is moved to the nearest place, and one that does
not occur is left out. Both are counted.

A file called `*.tsv` holds the same as rows: passage, question, JSON array of answers, JSON array
of their starts. Further columns, and keys of other names, are counted as passed over.
"""

from collections.abc import Iterable, Iterator, Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any

from palm_trainer.config.mappings import absent
from palm_trainer.data.example import Example, LabelledSpan
from palm_trainer.data.formats.json_values import load_json, parse_json
from palm_trainer.data.formats.offsets import find_nearest
from palm_trainer.data.formats.row_values import ANSWER
from palm_trainer.data.formats.text_files import Defects, FormatOptions, read_text, split_lines
from palm_trainer.errors import DataError

MOVED = "answer that is not at its answer_start (moved to where it stands)"
ABSENT = "answer that does not stand in its passage (left out)"
NO_START = "answer_start below 0 (the answer is searched for)"
NO_TEXT = "question or passage without text (question left out)"
IMPOSSIBLE = "answer of a question that `is_impossible` (passed over)"
SAME_ANSWER = "answer that equals another of its question (kept once)"
MORE_COLUMNS = "column after the starts of the answers (passed over)"
_KEYS: Mapping[str, tuple[str, ...]] = {
    "file": ("data", "version"),
    "article": ("paragraphs",),
    "paragraph": ("context", "qas"),
    "question": ("id", "question", "answers", "is_impossible"),
    "answer": ("text", "answer_start"),
}
"""Keys that are read, of each object."""
UNANSWERED = "question that lost all its answers (read as unlabelled)"


def parse(path: Path, options: FormatOptions, defects: Defects) -> Iterator[Example]:
    """Yield the examples of a file, one for each question, with `file#id` as `source`.

    Args:
        path: file to read.
        options: not used.
        defects: tally of repaired defects.

    Raises:
        DataError: the file has another structure.
    """
    if path.suffix.lower() == ".tsv":
        yield from _rows(path, defects)
        return
    document = load_json(path, defects)
    if not isinstance(document, dict) or not isinstance(document.get("data"), list):
        raise DataError(f'{path}: no "data" array; SQuAD JSON is {{"version": ..., "data": [{{"paragraphs": ...}}]}}')
    _note_unread(document, "file", str(path), defects)
    for article, place in _objects(document, "data", str(path)):
        _note_unread(article, "article", str(path), defects)
        for paragraph, paragraph_place in _objects(article, "paragraphs", place):
            _note_unread(paragraph, "paragraph", str(path), defects)
            context = _value(paragraph, "context", str, paragraph_place)
            for question, question_place in _objects(paragraph, "qas", paragraph_place):
                source = f"{path}#{_value(question, 'id', str | int, question_place)}"
                _check_question(question, source)
                _note_question(question, source, defects)
                if question["question"].strip() and context.strip():
                    yield _example(context, question, source, defects)
                else:
                    defects.add(NO_TEXT, source)


_TYPES: Mapping[Any, str] = {
    str: "a string",
    str | int: "a string or whole number",
    bool: "true or false",
    list: "a list",
}


def _value(owner: dict[str, Any], key: str, kind: Any, place: str) -> Any:
    """Return the value of a key.

    Args:
        owner: object with the key.
        key: its name.
        kind: type that it must have, a key of `_TYPES`.
        place: of the object, for the message.

    Raises:
        DataError: the value is missing or of another type.
    """
    value = owner.get(key)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        written = repr(value) if key in owner else "none"
        raise DataError(f'{place}: "{key}" must be {_TYPES[kind]}, got {written}. Compare it with SQuAD 1.1.')
    return value


def _objects(owner: dict[str, Any], key: str, place: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the objects of a list and the place of each. Raises DataError for anything else."""
    for number, item in enumerate(_value(owner, key, list, place), 1):
        item_place = f"{place}: {key} {number}"
        if not isinstance(item, dict):
            raise DataError(f"{item_place} must be an object, got {item!r}. Compare it with SQuAD 1.1.")
        yield item, item_place


def _check_question(question: dict[str, Any], source: str) -> None:
    """Check the types of a question's values. Raises DataError."""
    _value(question, "question", str, source)
    if question.get("is_impossible") is not None:
        _value(question, "is_impossible", bool, source)
    if "answers" in question:
        for answer, place in _objects(question, "answers", source):
            check_answer(answer.get("text"), answer.get("answer_start"), place)


def check_answer(text: Any, start: Any, place: str) -> None:
    """Check the types of an answer.

    Args:
        text: its text.
        start: its first code point in the passage.
        place: of the answer, for the message.

    Raises:
        DataError: one is of another type.
    """
    if not isinstance(text, str):
        raise DataError(f'{place}: "text" of an answer must be a string, got {text!r}. Correct it.')
    if type(start) is not int:
        raise DataError(f'{place}: "answer_start" must be a whole number, got {start!r}. Correct it.')


def _note_unread(row: dict[str, Any], owner: str, source: str, defects: Defects) -> None:
    """Count the keys of an object that are not read and hold something."""
    for name in absent(row, _KEYS[owner]):
        if row[name] not in (None, "", [], {}):
            defects.add(f"'{name}' of SQuAD's {owner} (passed over)", source)


def _note_question(question: dict[str, Any], source: str, defects: Defects) -> None:
    """Count what a question and its answers hold beside what is read."""
    _note_unread(question, "question", source, defects)
    answers = question.get("answers") or []
    for answer in answers:
        _note_unread(answer, "answer", source, defects)
    if question.get("is_impossible") and answers:
        defects.add(IMPOSSIBLE, source, len(answers))


def _rows(path: Path, defects: Defects) -> Iterator[Example]:
    """Yield the examples of a tab-separated file."""
    for number, line in enumerate(split_lines(read_text(path, defects)), 1):
        source = f"{path}:{number}"
        try:
            context, question, texts, starts, *further_columns = line.split("\t")
            answers = []
            for text, start in zip(_json_array(texts, source), _json_array(starts, source), strict=True):
                check_answer(text, start, source)
                answers.append({"text": text, "answer_start": start})
        except (ValueError, TypeError) as error:
            raise DataError(
                f"{source}: not passage, question, [answers], [starts], separated by tabs ({error}); correct the row"
            ) from None
        filled = len(list(filter(str.strip, further_columns)))
        if filled:
            defects.add(MORE_COLUMNS, source, filled)
        if question.strip() and context.strip():
            yield _example(context, {"question": question, "answers": answers}, source, defects)
        else:
            defects.add(NO_TEXT, source)


def _json_array(text: str, source: str) -> list[Any]:
    """Parse a JSON array in a column. Raises DataError if it is none."""
    value = parse_json(text, source, "write a JSON array", subject=f"column {text[:40]!r}")
    if not isinstance(value, list):
        raise TypeError(f"{text[:40]!r} is no array")
    return value


def is_row(line: str) -> bool:
    """Return True if a line has the form of such a row."""
    columns = line.split("\t")
    return len(columns) >= 4 and all(column.startswith("[") and column.endswith("]") for column in columns[2:4])


def _example(context: str, question: dict[str, Any], source: str, defects: Defects) -> Example:
    text = question["question"]
    if question.get("is_impossible"):
        return Example(text, {ANSWER: ()}, pair=context, source=source)
    if "answers" not in question:
        return Example(text, {}, pair=context, source=source)
    answers = list(map(itemgetter("text", "answer_start"), question["answers"]))
    spans = locate_answers(context, answers, source, defects)
    fields = {} if spans is None else {ANSWER: spans}
    return Example(text, fields, pair=context, source=source)


def locate_answers(
    context: str, answers: Iterable[tuple[str, int]], source: str, defects: Defects
) -> tuple[LabelledSpan, ...] | None:
    """Find the spans of answers in their passage.

    Args:
        context: passage.
        answers: text and start of each answer, in code points.
        source: `file:line`, for messages.
        defects: tally of repaired defects.

    Returns:
        Different spans in text order. None if there are answers and none of them occurs in the
        passage.
    """
    spans = set()
    has_answers = False
    for text, start in answers:
        has_answers = True
        span = _locate(context, text, start, source, defects)
        if span in spans:
            defects.add(SAME_ANSWER, source)
        elif span is not None:
            spans.add(span)
    if has_answers and not spans:
        defects.add(UNANSWERED, source)
        return None
    return tuple(sorted(spans, key=lambda span: (span.start, span.end)))


def _locate(context: str, answer: str, start: int, source: str, defects: Defects) -> LabelledSpan | None:
    """Return the span of an answer nearest to `start`; None if it does not occur."""
    if answer and start >= 0 and context.startswith(answer, start):
        return LabelledSpan(start, start + len(answer), "")
    if start < 0:
        defects.add(NO_START, source)
    nearest = find_nearest(context, answer, max(start, 0)) if answer.strip() else -1
    if nearest < 0:
        defects.add(ABSENT, source)
        return None
    defects.add(MOVED, source)
    return LabelledSpan(nearest, nearest + len(answer), "")

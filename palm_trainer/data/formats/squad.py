"""SQuAD JSON 1.1 and 2.0: the question is the text, its passage the pair; the field `answer` holds spans of the PAIR.

Several annotators may give several spans, which may overlap; `()` says that the passage has no answer
(`is_impossible`); a question without `answers` is unlabelled. Offsets are checked against the passage: an answer that
stands elsewhere in it is moved to the nearest place, one that does not stand in it is left out; both are counted.

A file called `*.tsv` holds the same as rows: passage, question, JSON array of answers, JSON array of their starts; further
columns are passed over.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from palm_trainer.data.example import Example, LabelledSpan
from palm_trainer.data.formats.jsonl import ANSWER
from palm_trainer.data.formats.text_files import Defects, FormatOptions, lines, load_json, read_text
from palm_trainer.errors import DataError

MOVED = "answer that is not at its answer_start (moved to where it stands)"
ABSENT = "answer that does not stand in its passage (left out)"
NO_START = "answer_start below 0 (the answer is searched for)"
NO_TEXT = "question or passage without text (question left out)"
UNANSWERED = "question that lost all its answers (read as unlabelled)"


def parse(path: Path, options: FormatOptions, defects: Defects) -> Iterator[Example]:
    """Examples of the file, a question each, `source` being `file#id`.

    Raises:
        DataError: JSON of another structure.
    """
    if path.suffix.lower() == ".tsv":
        yield from _rows(path, defects)
        return
    document = load_json(path, defects)
    if not isinstance(document, dict) or not isinstance(document.get("data"), list):
        raise DataError(f'{path}: no "data" array; SQuAD JSON is {{"version": ..., "data": [{{"paragraphs": ...}}]}}')
    try:
        for article in document["data"]:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    where, context = f"{path}#{question['id']}", paragraph["context"]
                    if question["question"].strip() and context.strip():
                        yield _example(context, question, where, defects)
                    else:
                        defects.add(NO_TEXT, where)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: not SQuAD's structure ({type(error).__name__}: {error}); compare it with SQuAD 1.1"
        ) from None


def _rows(path: Path, defects: Defects) -> Iterator[Example]:
    for number, line in enumerate(lines(read_text(path, defects)), 1):
        where = f"{path}:{number}"
        columns = line.split("\t")
        try:
            context, question, texts, starts, *_ = columns
            answers = [
                {"text": str(text), "answer_start": int(start)}
                for text, start in zip(json.loads(texts), json.loads(starts), strict=True)
            ]
        except (ValueError, TypeError) as error:
            raise DataError(
                f"{where}: not passage, question, [answers], [starts], parted by tabs ({error}); mend the row"
            ) from None
        if question.strip() and context.strip():
            yield _example(context, {"question": question, "answers": answers}, where, defects)
        else:
            defects.add(NO_TEXT, where)


def is_row(line: str) -> bool:
    """Whether a line has the form of such a row."""
    columns = line.split("\t")
    return len(columns) >= 4 and all(column.startswith("[") and column.endswith("]") for column in columns[2:4])


def _example(context: str, question: dict[str, Any], where: str, defects: Defects) -> Example:
    text = question["question"]
    if question.get("is_impossible"):
        return Example(text, {ANSWER: ()}, pair=context, source=where)
    if "answers" not in question:
        return Example(text, {}, pair=context, source=where)
    given = [(answer["text"], answer["answer_start"]) for answer in question["answers"]]
    spans = {span for answer, start in given if (span := locate_answer(context, answer, start, where, defects))}
    if given and not spans:
        defects.add(UNANSWERED, where)
        return Example(text, {}, pair=context, source=where)
    return Example(text, {ANSWER: tuple(sorted(spans, key=lambda s: (s.start, s.end)))}, pair=context, source=where)


def locate_answer(context: str, answer: str, start: int, where: str, defects: Defects) -> LabelledSpan | None:
    """The span of an answer in its passage, as near to `start` as it stands; None where it does not. Faults are counted."""
    if answer and start >= 0 and context.startswith(answer, start):
        return LabelledSpan(start, start + len(answer), "")
    if start < 0:
        defects.add(NO_START, where)
    places: list[int] = []
    while answer.strip() and (found := context.find(answer, places[-1] + 1 if places else 0)) >= 0:
        places.append(found)
    if not places:
        defects.add(ABSENT, where)
        return None
    defects.add(MOVED, where)
    nearest = min(places, key=lambda place: abs(place - start))
    return LabelledSpan(nearest, nearest + len(answer), "")

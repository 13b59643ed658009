"""Answers of a trained model as JSON lines, in the shape that `palm-serve call --json` prints."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from palm_serve.types import Answer, Classification, Label, Match, Spans, TaskAnswer
from palm_trainer.checkpoint import load_trained
from palm_trainer.errors import DataError
from palm_trainer.evaluation import Predictor
from palm_trainer.example import Example

Input = tuple[str, str | None]


def read_inputs(path: Path) -> list[Input]:
    """Texts of a file, one a line, or JSONL objects with `text` and perhaps `text_pair`. Raises DataError with file and line."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # only these: a text may hold U+2028 and its like
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text: {error}") from error
    is_json = path.suffix in {".jsonl", ".json"}
    inputs = [
        _json_input(path, number, line) if is_json else (line.rstrip("\r"), None)
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    if not inputs:
        raise DataError(f"{path}: no text in it; write one a line.")
    return inputs


def _json_input(path: Path, number: int, line: str) -> Input:
    try:
        row = json.loads(line)
        text, pair = row["text"], row.get("text_pair")
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f'{path}:{number}: not an object with "text": {error!r}') from None
    if not isinstance(text, str) or not isinstance(pair, str | None):
        raise DataError(f'{path}:{number}: "text" and "text_pair" are strings')
    return text, pair


def predict_lines(run: Path, inputs: Sequence[Input]) -> Iterator[str]:
    """One JSON object a text: the text and the answer of each task."""
    for text in (text for one in inputs for text in one if text):
        if any("\ud800" <= c <= "\udfff" for c in text):
            raise DataError(
                f"{text[:40]!r}: not Unicode text (it holds half of a surrogate pair, or bytes that are not UTF-8). Mend the text."
            )
    predictor = Predictor(load_trained(run))
    examples = [Example(text=text, pair=pair) for text, pair in inputs]
    for example, answers in zip(examples, predictor.answers(examples), strict=True):
        record: dict[str, Any] = {"text": example.text}
        if example.pair is not None:
            record["text_pair"] = example.pair
        record.update({task: answer_to_json(answer) for task, answer in answers.items()})
        yield json.dumps(record, ensure_ascii=False)


def answer_to_json(answer: TaskAnswer) -> Any:
    """A plain structure for one answer."""
    match answer:
        case Classification():
            told = {**_label(answer.label), "ranking": [_label(label) for label in answer.ranking]}
            return told | ({"labels": [_label(label) for label in answer.labels]} if answer.labels else {})
        case Spans():
            return [
                {
                    "label": s.name,
                    "value": s.value,
                    "start": s.start,
                    "end": s.end,
                    "confidence": round(s.confidence, 4),
                }
                for s in answer.spans
            ]
        case Match():
            return {"label": answer.label.name if answer.label else None, "score": round(answer.score, 4)}
        case Answer():
            told = {
                "text": answer.text,
                "start": answer.start,
                "end": answer.end,
                "confidence": round(answer.confidence, 4),
                "no_answer": answer.no_answer,
            }
            rest = [answer_to_json(other) for other in answer.alternatives]
            return told | ({"alternatives": rest} if rest else {})


def _label(label: Label) -> dict[str, Any]:
    return {"label": label.name, "confidence": round(label.confidence, 4)}

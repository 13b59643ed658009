"""Answers of a trained model as JSON lines, in the shape that `palm-serve call --json` prints."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from palm_serve.bundle.manifest import TaskInfo
from palm_serve.types import Answer, Classification, Label, Match, Spans, TaskAnswer
from palm_trainer.data.example import Example
from palm_trainer.errors import DataError
from palm_trainer.evaluation.predictor import Predictor
from palm_trainer.model.checkpoint import load_trained
from palm_trainer.tasks import task_kind

Input = tuple[str, str | None]
_KEYS = (("text", "question"), ("text_pair", "passage", "context"))
"""Names of a text and of its pair in JSONL."""


def read_inputs(path: Path) -> list[Input]:
    """Texts of a file, one a line, or JSONL objects with `text` and perhaps `text_pair` (or `question` and `passage`). Raises DataError with file and line."""
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
        text, pair = (next((row[name] for name in names if row.get(name) is not None), None) for names in _KEYS)
    except (ValueError, AttributeError) as error:
        raise DataError(f'{path}:{number}: not an object with "text": {error}') from None
    if text is None:
        raise DataError(f'{path}:{number}: not an object with "text" (or "question"): {", ".join(row) or "empty"}')
    if not isinstance(text, str) or not isinstance(pair, str | None):
        raise DataError(
            f'{path}:{number}: "text" (or "question") and "text_pair" (or "passage", "context") are strings'
        )
    return text, pair


def with_pairs(texts: Sequence[str], pairs: Sequence[str]) -> list[Input]:
    """Each text with its pair, the one pair with every text, or texts alone. Raises DataError for other numbers."""
    if len(pairs) not in (0, 1, len(texts)):
        raise DataError(
            f"--pair is given {len(pairs)} times for {len(texts)} texts. Give it once for all of them, or once for each."
        )
    seconds: list[str | None] = [*pairs] if len(pairs) == len(texts) else [pairs[0] if pairs else None] * len(texts)
    return list(zip(texts, seconds, strict=True))


def _check(inputs: Sequence[Input], tasks: Mapping[str, TaskInfo]) -> None:
    """Raises DataError for what is no text, and for an input that no task reads."""
    reads = {name: info.pairs for name, info in tasks.items() if task_kind(info.kind).is_answered}
    for text, pair in inputs:
        for one in (text, pair or ""):
            if any("\ud800" <= c <= "\udfff" for c in one):
                raise DataError(
                    f"{one[:40]!r}: not Unicode text (it holds half of a surrogate pair, or bytes that are not UTF-8). Mend the text."
                )
        if (pair is not None) not in reads.values():
            listed = ", ".join(f"'{name}'" for name in reads) or "none"
            what = "a second text" if pair is None else "texts without a pair"
            way = (
                "Give the passage or second text with --pair, or as text_pair in JSONL"
                if pair is None
                else "Leave the pair out"
            )
            raise DataError(f"{text[:40]!r}: every task of this model ({listed}) reads {what}. {way}.")


def predict_lines(run: Path, inputs: Sequence[Input]) -> Iterator[str]:
    """One JSON object a text: the text and the answer of each task that reads it. Raises DataError where none does."""
    trained = load_trained(run)
    _check(inputs, trained.tasks)
    predictor = Predictor(trained)
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

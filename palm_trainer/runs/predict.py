"""Answers of a trained model as JSON lines, in the form that `palm-serve call --json` prints."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from palm_serve.bundle.manifest import TaskInfo
from palm_serve.errors import BundleError
from palm_serve.system.plain_text import plain_json
from palm_serve.types import Answer, Classification, Label, Match, Moment, Span, Spans, TaskAnswer
from palm_serve.values import ValueResolver
from palm_trainer.data.example import Example
from palm_trainer.data.formats.json_values import parse_json
from palm_trainer.data.formats.jsonl import as_row
from palm_trainer.data.formats.rows import pop_context
from palm_trainer.data.formats.text_files import read_text, split_lines
from palm_trainer.errors import CheckpointError, DataError
from palm_trainer.evaluation.predictor import Predictor
from palm_trainer.model.checkpoint import load_trained
from palm_trainer.runs.file_names import VALUES
from palm_trainer.runs.run_values import read_values
from palm_trainer.tasks import task_kind
from palm_trainer.tasks.sequence_label import role_keys

_KEYS = (("text", "question"), ("text_pair", "passage"))
"""Keys of a text and of its pair in JSONL."""


def read_inputs(path: Path) -> list[Example]:
    """Read the texts of a file, one a line, or JSONL objects.

    They have `text` and `text_pair` (or `question`, and `passage` or a string in `context`), or `text` with lists of
    strings in `context` and `requested_slots`.

    Raises:
        DataError: names the file and the line.
    """
    lines = split_lines(read_text(path))
    is_json = path.suffix in {".jsonl", ".json"}
    inputs: list[Example] = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            inputs.append(_json_input(path, number, line) if is_json else Example(line))
    return inputs


def _json_input(path: Path, number: int, line: str) -> Example:
    row = parse_json(line, f"{path}:{number}", 'write an object with "text" a line', is_line=True)
    if not isinstance(row, dict):
        raise DataError(f'{path}:{number}: not an object with "text", got {row!r}')
    text, pair = _first_value(row, _KEYS[0]), _first_value(row, _KEYS[1])
    context = None if pair is not None else pop_context(row, f"{path}:{number}")
    if pair is None and context is None:
        pair = row.get("context")
    if text is None:
        raise DataError(f'{path}:{number}: not an object with "text" (or "question"): {", ".join(row) or "empty"}')
    if not isinstance(text, str) or not isinstance(pair, str | None):
        raise DataError(
            f'{path}:{number}: "text" (or "question") and "text_pair" (or "passage", "context") are strings'
        )
    return Example(text, pair=pair, context=context)


def _first_value(row: Mapping[str, Any], keys: Sequence[str]) -> Any:
    """Return the value of the first key that the row has, None without one."""
    for key in keys:
        if row.get(key) is not None:
            return row[key]
    return None


def with_pairs(texts: Sequence[str], pairs: Sequence[str]) -> list[Example]:
    """Join each text with its pair, or all texts with a single pair. Raises DataError for other numbers of pairs."""
    if len(pairs) not in (0, 1, len(texts)):
        raise DataError(
            f"--pair is given {len(pairs)} times for {len(texts)} texts. Give it once for all of them, or once for each."
        )
    seconds: list[str | None] = [*pairs] if len(pairs) == len(texts) else [pairs[0] if pairs else None] * len(texts)
    return [Example(text, pair=pair) for text, pair in zip(texts, seconds, strict=True)]


def _check(inputs: Sequence[Example], tasks: Mapping[str, TaskInfo]) -> None:
    """Raise DataError for an input that is not Unicode text, or that no task reads."""
    reads = {}
    for name, info in tasks.items():
        if task_kind(info.kind).is_answered:
            reads[name] = info.pairs
    for example in inputs:
        text, pair = example.text, example.pair
        for part_text in (text, example.inputs.second or ""):
            if any("\ud800" <= character <= "\udfff" for character in part_text):
                raise DataError(
                    f"{part_text[:40]!r}: not Unicode text (it holds half of a surrogate pair, or bytes that are not UTF-8). Mend the text."
                )
        if (pair is not None) not in reads.values():
            listed = ", ".join(f"'{name}'" for name in reads) or "none"
            expected = "a second text" if pair is None else "texts without a pair"
            remedy = (
                "Give the passage or second text with --pair, or as text_pair in JSONL"
                if pair is None
                else "Leave the pair out"
            )
            raise DataError(f"{text[:40]!r}: every task of this model ({listed}) reads {expected}. {remedy}.")


def predict_lines(run: Path, inputs: Sequence[Example]) -> Iterator[str]:
    """Yield a JSON object for each text: the text and the answers of the tasks that read it, with the meanings of values.

    Args:
        run: the run directory.
        inputs: the texts.

    Raises:
        DataError: a text cannot be read by the model.
        CheckpointError: the run cannot be read, or its values need resolvers that are not installed.
    """
    trained = load_trained(run)
    _check(inputs, trained.tasks)
    predictor = Predictor(trained)
    resolver = _open_resolver(run, trained.tasks)
    try:
        for example, answers in zip(inputs, predictor.answers(inputs), strict=True):
            resolved_answers = answers if resolver is None else resolver.resolve_answers(answers, Moment())
            record = as_row(example)
            for task, answer in resolved_answers.items():
                record[task] = answer_to_json(answer)
            yield plain_json(json.dumps(record, ensure_ascii=False))
    finally:
        if resolver is not None:
            resolver.close()


def _open_resolver(run: Path, tasks: Mapping[str, TaskInfo]) -> ValueResolver | None:
    """Return what finds the meanings of values, as a server does. None: the run has no values."""
    values = read_values(run, tasks)
    if values is None:
        return None
    try:
        return ValueResolver(values)
    except (BundleError, ValueError) as error:
        raise CheckpointError(f"{run / VALUES} cannot be used: {error}") from None


def answer_to_json(answer: TaskAnswer) -> Any:
    """Return the JSON structure of one answer."""
    match answer:
        case Classification():
            record = {**_label(answer.label), "ranking": list(map(_label, answer.ranking))}
            if answer.labels:
                record["labels"] = list(map(_label, answer.labels))
            return record
        case Spans():
            return list(map(_span, answer.spans))
        case Match():
            return {"label": answer.label.name if answer.label else None, "score": round(answer.score, 4)}
        case Answer():
            record = {
                "text": answer.text,
                "start": answer.start,
                "end": answer.end,
                "confidence": round(answer.confidence, 4),
                "no_answer": answer.no_answer,
            }
            if answer.alternatives:
                record["alternatives"] = list(map(answer_to_json, answer.alternatives))
            return record


def _span(span: Span) -> dict[str, Any]:
    record = {
        "label": span.name,
        **role_keys(span),
        "value": span.value,
        "start": span.start,
        "end": span.end,
        "confidence": round(span.confidence, 4),
    }
    if span.resolved is not None:
        record["resolved"] = asdict(span.resolved)
    return record


def _label(label: Label) -> dict[str, Any]:
    return {"label": label.name, "confidence": round(label.confidence, 4)}

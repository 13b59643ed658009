"""Answers of a trained model in PALM's fields, with names, words and text beside its numbers."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from palm_serve.bundle.manifest import TaskInfo
from palm_serve.decoding import DecoderTable
from palm_serve.types import Answer, Classification, Match, Spans, TaskAnswer
from palm_trainer.data.example import Example, LabelledSpan
from palm_trainer.data.formats.tags import tags_from_spans
from palm_trainer.errors import DataError, WiringError
from palm_trainer.evaluation.predictor import Predictor
from palm_trainer.model.multi_task import TrainedModel

Record = dict[str, Any]
PREDICTIONS = "predictions.json"


def predict(
    trained: TrainedModel, examples: Sequence[Example], tasks: Sequence[str], report: Callable[[int, int], None]
) -> dict[str, list[Record]]:
    """A record an example for each task, in the order of the examples. Tasks that read alike share each encoder pass.

    Args:
        trained: the model.
        examples: with or without labels.
        tasks: which to answer.
        report: is told how many examples are done, and of how many, after each batch.

    Raises WiringError for a masked LM, which has no answer, DataError for single texts where a task reads pairs.
    """
    infos = {task: trained.tasks[task] for task in tasks}
    for task, info in infos.items():
        if info.kind == "masked_lm":
            raise WiringError(
                f"trainer '{task}' has a masked LM head, which shapes the encoder and answers nothing. Predict with another task."
            )
        lone = next((e for e in examples if info.pairs and e.pair is None), None)
        if lone is not None:
            raise DataError(
                f"{lone.source}: task '{task}' reads pairs, but this row has one text. Name the second column text_b."
            )
    predictor = Predictor(trained, top_k=0)
    decoders = DecoderTable.of(infos, trained.arrays)
    found: dict[str, list[Record]] = {task: [{} for _ in examples] for task in tasks}
    for windows in dict.fromkeys(info.windows for info in infos.values()):
        alike = [task for task, info in infos.items() if info.windows == windows]
        done = 0
        for positions, items, outputs in predictor.outputs(examples, alike, windows):
            for task in alike:
                answers = decoders.by_task[task](outputs, items)
                logits = outputs[f"{task}.logits"] if infos[task].kind in ("classify", "multi_label", "match") else None
                for row, (i, answer) in enumerate(zip(positions, answers, strict=True)):
                    own = None if logits is None else logits[row]
                    found[task][i] = _record(i, examples[i], infos[task], answer, own)
            done += len(positions)
            report(done, len(examples))
    return found


def write_predictions(folder: Path, task_kind: str, records: Sequence[Record]) -> Path:
    """PALM's files: a JSON object a line, or for reading comprehension one object by question id, and `nbest_predictions.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / PREDICTIONS
    if task_kind != "mrc":
        path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")
        return path
    path.write_text(_json({str(r["id"]): r["text"] for r in records}), encoding="utf-8")
    nbest = {str(r["id"]): r["nbest"] for r in records}
    (folder / "nbest_predictions.json").write_text(_json(nbest), encoding="utf-8")
    return path


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _record(
    index: int, example: Example, info: TaskInfo, answer: TaskAnswer, logits: npt.NDArray[np.float32] | None
) -> Record:
    record: Record = {"index": index}
    match answer:
        case Classification():
            by_name = {label.name: label.confidence for label in answer.ranking}
            record |= {"label": info.labels.index(answer.label.name), "name": answer.label.name}
            if info.kind == "multi_label":
                record["names"] = [label.name for label in answer.labels]
            record |= {"logits": _numbers(logits), "probs": [by_name[name] for name in info.labels]}
        case Match(label=None):
            record["probs"] = answer.score
        case Match(label=label):
            assert logits is not None
            assert label is not None
            odds = np.exp(logits - logits.max())
            record |= {"label": info.labels.index(label.name), "name": label.name}
            record |= {"logits": _numbers(logits), "probs": _numbers(odds / odds.sum()), "score": answer.score}
        case Spans():
            record |= _tagged(example, answer, info)
        case Answer():
            record |= {
                "id": _question_id(example, index),
                "text": answer.text,
                "start": answer.start,
                "end": answer.end,
            }
            record |= {"probability": answer.confidence, "nbest": [_choice(a) for a in (answer, *answer.alternatives)]}
    return record | {"text_a": example.text}


def _tagged(example: Example, answer: Spans, info: TaskInfo) -> Record:
    """Tags of the data's own words (of what white space parts, where it has none), their ids in the head, and the spans."""
    words = example.words
    if words is None:
        ends = [0]
        for word in example.text.split():
            ends.append(example.text.index(word, ends[-1]) + len(word))
        words = tuple((end - len(w), end) for end, w in zip(ends[1:], example.text.split(), strict=True))
    tags = tags_from_spans([LabelledSpan(s.start, s.end, s.name) for s in answer.spans], words)
    return {
        "label": [info.labels.index(tag) for tag in tags],
        "tags": tags,
        "words": [example.text[start:end] for start, end in words],
        "spans": [
            {"label": s.name, "value": s.value, "start": s.start, "end": s.end, "confidence": s.confidence}
            for s in answer.spans
        ],
    }


def _question_id(example: Example, index: int) -> str | int:
    """SQuAD's own id; the row's number where the file has none."""
    _, mark, identity = example.source.rpartition("#")
    return identity if mark else index


def _choice(answer: Answer) -> Record:
    return {"text": answer.text, "probability": answer.confidence, "start": answer.start, "end": answer.end}


def _numbers(values: npt.NDArray[np.float32] | None) -> list[float]:
    return [] if values is None else [float(v) for v in values]

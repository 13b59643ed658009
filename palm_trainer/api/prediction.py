"""Predictions of a trained model in PALM's format, with names, words and text in addition to its numbers."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from palm_serve.decoding import DecoderTable
from palm_trainer.data.example import Example
from palm_trainer.errors import DataError, WiringError
from palm_trainer.evaluation.predictor import Predictor
from palm_trainer.model.multi_task import TrainedModel
from palm_trainer.tasks import task_kind
from palm_trainer.tasks.base import PREDICTIONS

Record = dict[str, Any]


def predict(
    trained: TrainedModel, examples: Sequence[Example], tasks: Sequence[str], report: Callable[[int, int], None]
) -> dict[str, list[Record]]:
    """Return one record per example for each task, in the order of the examples.

    Tasks with the same windows share each encoder pass.

    Args:
        trained: the model.
        examples: examples with or without labels.
        tasks: tasks to predict.
        report: called as report(done, total) after each batch.

    Raises:
        WiringError: a masked LM, which has no predictions.
        DataError: a single text where a task reads pairs.
    """
    infos = {task: trained.tasks[task] for task in tasks}
    for task, info in infos.items():
        if not task_kind(info.kind).is_answered:
            raise WiringError(
                f"trainer '{task}' has a masked LM head, which trains the encoder only and has no predictions. Predict with another task."
            )
        for example in examples:
            if info.pairs and example.pair is None:
                raise DataError(
                    f"{example.source}: task '{task}' reads pairs, but this row has one text. Name the second column text_b."
                )
    predictor = Predictor(trained, top_k=0)
    decoders = DecoderTable.of(trained.tasks, trained.arrays, tasks)
    records: dict[str, list[Record]] = {}
    for task in tasks:
        records[task] = [{} for _ in examples]
    for layout in dict.fromkeys(info.layout for info in infos.values()):
        alike_tasks = [task for task, info in infos.items() if info.layout == layout]
        done = 0
        for positions, items, outputs in predictor.outputs(examples, alike_tasks, layout):
            for task in alike_tasks:
                info = infos[task]
                kind = task_kind(info.kind)
                answers = decoders.by_task[task](outputs, items)
                logits = outputs[f"{task}.logits"] if kind.has_logits_of_labels() else None
                for row, (i, answer) in enumerate(zip(positions, answers, strict=True)):
                    example_logits = None if logits is None else logits[row]
                    fields = kind.palm_record(examples[i], i, info, answer, example_logits)
                    records[task][i] = {"index": i, **fields, "text_a": examples[i].text}
            done += len(positions)
            report(done, len(examples))
    return records


def write_predictions(folder: Path, kind: str, records: Sequence[Record]) -> Path:
    """Write PALM's files, and return the path of the predictions.

    That is a JSON object per line, or for reading comprehension one object by question id, and `nbest_predictions.json`.

    Args:
        folder: directory, created if missing.
        kind: kind of the task.
        records: records of `predict`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in task_kind(kind).palm_files(records).items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder / PREDICTIONS

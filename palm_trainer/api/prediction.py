"""Answers of a trained model in PALM's fields, with names, words and text beside its numbers."""

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
        if not task_kind(info.kind).is_answered:
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
                info = infos[task]
                kind = task_kind(info.kind)
                answers = decoders.by_task[task](outputs, items)
                logits = outputs[f"{task}.logits"] if kind.has_logits_of_labels() else None
                for row, (i, answer) in enumerate(zip(positions, answers, strict=True)):
                    example_logits = None if logits is None else logits[row]
                    fields = kind.palm_record(examples[i], i, info, answer, example_logits)
                    found[task][i] = {"index": i, **fields, "text_a": examples[i].text}
            done += len(positions)
            report(done, len(examples))
    return found


def write_predictions(folder: Path, kind: str, records: Sequence[Record]) -> Path:
    """Write PALM's files, and return the path of the predictions.

    That is a JSON object per line, or for reading comprehension one object by question id, and `nbest_predictions.json`.

    Args:
        folder: is created where it does not exist.
        kind: of the task.
        records: as `predict` returned them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in task_kind(kind).palm_files(records).items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder / PREDICTIONS

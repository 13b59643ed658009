"""Batches to predict, the raw tensors of a head for them, and predictions of custom heads and readers."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from palm_trainer.api.custom.encoder import CustomEncoder, inputs_of
from palm_trainer.api.custom.head import head_arrays
from palm_trainer.api.custom.reader import custom_content, is_custom_reader
from palm_trainer.api.declarations import Batch, Task
from palm_trainer.api.reader.base_reader import Reader
from palm_trainer.api.reader.text_reader import TextReader
from palm_trainer.api.session import Say, Session
from palm_trainer.errors import WiringError
from palm_trainer.model.multi_task import MultiTaskModel
from palm_trainer.tasks import task_kind
from palm_trainer.tensors import PALM_NAMES

_ENGINE = dict(zip(PALM_NAMES.values(), PALM_NAMES, strict=True))


class Progress:
    """Logs PALM's line every `print_steps` batches: `batch 2/9, speed: 3.10 steps/s`."""

    def __init__(self, batch_size: int, print_steps: int, say: Say) -> None:
        self._size, self._every, self._say = batch_size, max(1, print_steps), say
        self._begin = time.perf_counter()
        self._lines = 0

    def __call__(self, done: int, total: int) -> None:
        """Log the progress after `done` of `total` examples."""
        batch = -(-done // self._size)
        batches = -(-total // self._size)
        if batch // self._every > self._lines:
            self._lines = batch // self._every
            speed = batch / max(time.perf_counter() - self._begin, 1e-9)
            self._say(f"batch {batch}/{batches}, speed: {speed:.2f} steps/s")


def batches_of(session: Session, task: Task, reader: Reader) -> Iterator[Batch]:
    """Yield the batches to predict, without labels, in the order of the data. The last batch may be smaller.

    Args:
        session: session of the trainer.
        task: task to predict.
        reader: reader of the data.

    Raises:
        WiringError: the task has no backbone, or the reader lacks an input.
    """
    backbone = session.ready.model.backbone if session.trained is not None else task.backbone
    if task.custom_head is not None:
        task.custom_head.eval()
        for name in task.custom_head.inputs_attrs.get("reader", {}):
            reader.require_attr(name)
    for name in () if backbone is None else backbone.inputs_attr:
        reader.require_attr(name)
    if is_custom_reader(reader) or not isinstance(reader, TextReader):
        for arrays in reader.iterate():
            if backbone is None:
                raise WiringError(f"trainer '{task.name}' has no backbone yet. Call build_predict_forward first.")
            yield Batch(arrays, task.name, [custom_content(arrays, {}, backbone)])
        return
    dataset = reader.dataset({}, tuple(PALM_NAMES))
    for begin in range(0, len(dataset), reader.batch_size):
        content = dataset.batch(np.arange(begin, min(begin + reader.batch_size, len(dataset))))
        yield Batch(reader.attrs_of(content), task.name, [content])


@torch.no_grad()
def raw_outputs(
    session: Session, task: Task, batch: Mapping[str, npt.NDArray[Any]]
) -> dict[str, npt.NDArray[np.float32]]:
    """Return the tensors of one head for a batch.

    Args:
        session: session of the trainer.
        task: task to predict.
        batch: a batch of `batches_of`.

    Raises:
        WiringError: not a batch of a trainer.
    """
    if not isinstance(batch, Batch):
        raise WiringError(
            "predict_one_batch: batch must be a batch of a trainer. Take it from fit_reader(reader, phase='predict')."
        )
    trained = session.ready
    model = trained.model.eval()
    device = next(model.parameters()).device
    inputs = _encoder_inputs(batch, model)
    if task.custom_head is not None:
        for name, value in head_arrays(task.custom_head, batch, "predict").items():
            inputs.setdefault(_ENGINE.get(name, name), value)
    inputs = {name: value.to(device) for name, value in inputs.items()}
    outputs = {}
    for name, value in model(**inputs, tasks=(task.name,)).items():
        tensor = value.cpu()
        outputs[name.removeprefix(f"{task.name}.")] = tensor.float() if tensor.is_floating_point() else tensor
    info = trained.tasks.get(task.name)
    if info is not None and info.labels and task_kind(info.kind).exclusive_labels(info):
        outputs["probs"] = outputs["logits"].softmax(dim=-1)
    return {name: value.numpy() for name, value in outputs.items()}


def _encoder_inputs(batch: Batch, model: MultiTaskModel) -> dict[str, torch.Tensor]:
    if isinstance(model.backbone, CustomEncoder):
        return inputs_of(batch, model.backbone)
    return {name: batch.content.inputs[name] for name in model.input_names}


def predict_with_custom_head(
    session: Session, task: Task, reader: Reader, report: Progress, output_dir: str | Path | None
) -> list[Any]:
    """Return the answers of `batch_postprocess` and `epoch_postprocess` of a custom head.

    Args:
        session: session of the trainer.
        task: task with the custom head.
        reader: reader of the data.
        report: called with the numbers of examples after each batch.
        output_dir: directory that the head writes to. None: not written.

    Raises:
        WiringError: the reader lacks a value that the head needs of the whole data.
    """
    head = task.custom_head
    assert head is not None
    head.reset()
    done = 0
    for batch in batches_of(session, task, reader):
        head.batch_postprocess(raw_outputs(session, task, batch))
        done += batch.content.size
        report(done, max(done, reader.num_examples))
    epoch_outputs = reader.get_epoch_outputs()
    epoch_inputs = {}
    for name in head.eval().epoch_inputs_attrs.get("reader", {}):
        if name not in epoch_outputs:
            raise WiringError(
                f"trainer '{task.name}': {type(head).__name__} needs '{name}' of the whole data, but get_epoch_outputs of "
                f"{type(reader).__name__} gives: {', '.join(epoch_outputs) or 'nothing'}."
            )
        epoch_inputs[name] = epoch_outputs[name]
    answers = head.epoch_postprocess({"reader": epoch_inputs}, output_dir)
    if output_dir is not None:
        session.say(f"Predictions saved at {output_dir}")
    return head.get_results() if answers is None else answers


def predict_from_custom_reader(session: Session, task: Task, reader: Reader, report: Progress) -> list[dict[str, Any]]:
    """Return the records of a classifier on batches of a custom reader.

    Args:
        session: session of the trainer.
        task: task to predict.
        reader: the custom reader.
        report: called with the numbers of examples after each batch.
    """
    records: list[dict[str, Any]] = []
    for batch in batches_of(session, task, reader):
        outputs = raw_outputs(session, task, batch)
        labels = session.ready.tasks[task.name].labels
        for logits, probs in zip(outputs["logits"], outputs["probs"], strict=True):
            best = int(logits.argmax())
            record = {"index": len(records), "label": best, "name": labels[best]}
            records.append({**record, "logits": logits.tolist(), "probs": probs.tolist()})
        report(len(records), max(len(records), reader.num_examples))
    return records

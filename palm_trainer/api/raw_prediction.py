"""Batches to predict and a head's own tensors for them; what heads and readers of the user's make of these."""

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
from palm_trainer.tasks import task_kind
from palm_trainer.tensors import PALM_NAMES

_ENGINE = {palm: ours for ours, palm in PALM_NAMES.items()}


class Progress:
    """PALM's line every so many batches: `batch 2/9, speed: 3.10 steps/s`."""

    def __init__(self, batch_size: int, print_steps: int, say: Say) -> None:
        self._size, self._every, self._say = batch_size, max(1, print_steps), say
        self._begin, self._told = time.perf_counter(), 0

    def __call__(self, done: int, total: int) -> None:
        """`done` of `total` examples are predicted."""
        batch, batches = -(-done // self._size), -(-total // self._size)
        if batch // self._every > self._told:
            self._told = batch // self._every
            speed = batch / max(time.perf_counter() - self._begin, 1e-9)
            self._say(f"batch {batch}/{batches}, speed: {speed:.2f} steps/s")


def batches_of(session: Session, task: Task, reader: Reader) -> Iterator[Batch]:
    """Batches to predict, without labels, in the order of the data; the last may be smaller."""
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
    """The tensors of one head for a batch. Raises WiringError for anything but a batch."""
    if not isinstance(batch, Batch):
        raise WiringError(
            "predict_one_batch: this is no batch of a trainer. Take it from fit_reader(reader, phase='predict')."
        )
    trained = session.ready
    model = trained.model.eval()
    device = next(model.parameters()).device
    own = isinstance(model.backbone, CustomEncoder)
    given = dict(inputs_of(batch, model.backbone) if own else {n: batch.content.inputs[n] for n in model.input_names})
    if task.custom_head is not None:
        given |= {
            _ENGINE.get(n, n): v
            for n, v in head_arrays(task.custom_head, batch, "predict").items()
            if _ENGINE.get(n, n) not in given
        }
    inputs = {name: value.to(device) for name, value in given.items()}
    found = {k.removeprefix(f"{task.name}."): v.cpu() for k, v in model(**inputs, tasks=(task.name,)).items()}
    outputs = {name: value.float() if value.is_floating_point() else value for name, value in found.items()}
    info = trained.tasks.get(task.name)
    if info is not None and info.labels and task_kind(info.kind).exclusive_labels(info):
        outputs["probs"] = outputs["logits"].softmax(dim=-1)
    return {name: value.numpy() for name, value in outputs.items()}


def predict_with_custom_head(
    session: Session, task: Task, reader: Reader, report: Progress, output_dir: str | Path | None
) -> list[Any]:
    """What the head's `batch_postprocess` and `epoch_postprocess` make of its outputs."""
    head = task.custom_head
    assert head is not None
    head.reset()
    done = 0
    for batch in batches_of(session, task, reader):
        head.batch_postprocess(raw_outputs(session, task, batch))
        done += batch.content.size
        report(done, max(done, reader.num_examples))
    wanted, known = head.eval().epoch_inputs_attrs.get("reader", {}), reader.get_epoch_outputs()
    missing = next((name for name in wanted if name not in known), None)
    if missing is not None:
        raise WiringError(
            f"trainer '{task.name}': {type(head).__name__} needs '{missing}' of the whole data, but get_epoch_outputs of "
            f"{type(reader).__name__} gives: {', '.join(known) or 'nothing'}."
        )
    answers = head.epoch_postprocess({"reader": {name: known[name] for name in wanted}}, output_dir)
    if output_dir is not None:
        session.say(f"Predictions saved at {output_dir}")
    return head.get_results() if answers is None else answers


def predict_from_custom_reader(session: Session, task: Task, reader: Reader, report: Progress) -> list[dict[str, Any]]:
    """Records of a classifier on batches of a reader that the user wrote."""
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

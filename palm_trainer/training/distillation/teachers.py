"""Finished runs as teachers: what each can teach, and its answers to the training data, computed once, before the first step."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from palm_serve.bundle.manifest import TaskInfo
from palm_serve.engine.padding import pad_batch
from palm_serve.tokenization import TextTokenizer
from palm_serve.types import Encoding
from palm_trainer.data.example import Example
from palm_trainer.data.inputs import Feature, Inputs
from palm_trainer.errors import ConfigError
from palm_trainer.model.checkpoint import WEIGHTS, checkpoint_directory, load_trained
from palm_trainer.model.heads.base import SoftTargets
from palm_trainer.model.multi_task import TrainedModel
from palm_trainer.tasks import task_kind
from palm_trainer.tensors import NO_SOFT_TARGET
from palm_trainer.training.distillation.alignment import realign_tags

_BATCH_TOKENS = 8192
"""Padded tokens of a batch, where it holds more than one row."""


@dataclass(frozen=True)
class Teacher:
    """The best model of a run, and the digest of its weights."""

    run: Path
    trained: TrainedModel
    digest: str


def load_teachers(runs: Sequence[Path], student: TrainedModel) -> list[Teacher]:
    """The teachers of a student's tasks, each checked. Torch's generator stays as it is.

    A teacher teaches the tasks that it has under the same name. Labels are matched by name; those that only the teacher has are left out, and the
    probabilities of the others scaled to 1.

    Raises:
        CheckpointError: no such run.
        ConfigError: a teacher with no task of the student, with one of another kind or without one of its labels; or one of `mrc` that cuts text into
            other pieces than the student.
    """
    with torch.random.fork_rng(devices=[]):
        found = []
        for run in runs:
            trained = load_trained(run)
            _check(run, trained, student)
            weights = (checkpoint_directory(run) / WEIGHTS).read_bytes()
            found.append(Teacher(run, trained, hashlib.sha256(weights).hexdigest()))
        return found


def find_shared_tasks(trained: TrainedModel, student: TrainedModel) -> list[str]:
    """Tasks of the student that a model can teach."""
    return [task for task, info in student.tasks.items() if task in trained.tasks and task_kind(info.kind).is_answered]


def _check(run: Path, trained: TrainedModel, student: TrainedModel) -> None:
    where, shared = f"train.distillation.teachers: {run}", find_shared_tasks(trained, student)
    if not shared:
        raise ConfigError(
            f"{where} has none of the tasks {', '.join(student.tasks)}; it has {', '.join(trained.tasks)}. Name them alike, or remove it."
        )
    for task in shared:
        own, theirs = student.tasks[task], trained.tasks[task]
        if own.kind != theirs.kind or bool(own.labels) != bool(theirs.labels):
            raise ConfigError(
                f"{where}: its task '{task}' is of kind {theirs.kind} with {len(theirs.labels)} labels, not {own.kind} with {len(own.labels)}. "
                "Rename the task, or remove the teacher."
            )
        missing = [label for label in own.labels if label not in theirs.labels]
        if missing:
            raise ConfigError(
                f"{where}: its task '{task}' does not know the label '{missing[0]}' (nor {len(missing) - 1} others), so that it would teach never to say it. "
                "Train the teacher on the same labels, or remove it."
            )
        if own.windows is not None and not _cuts_alike(trained, student):
            raise ConfigError(
                f"{where}: its task '{task}' answers by piece of a window, and its encoder cuts text into other pieces than this one's, or takes fewer "
                f"than encoder.max_length = {student.max_length}. Choose a teacher with the same tokenizer and enough positions."
            )


def _cuts_alike(trained: TrainedModel, student: TrainedModel) -> bool:
    """Whether a model can read the student's own rows."""
    limit = trained.model.backbone.max_length
    return trained.tokenizer_json == student.tokenizer_json and (limit is None or limit >= student.max_length)


@torch.no_grad()
def soft_targets(
    teachers: Sequence[Teacher],
    student: TrainedModel,
    tasks: Sequence[str],
    inputs: Inputs,
    examples: Sequence[Example],
    *,
    device: torch.device,
    temperature: float,
) -> dict[str, list[SoftTargets]]:
    """Mean probabilities of the teachers for each feature of a data set, by task, in the student's order of labels; in eval mode, fp32.

    Shapes are those that `Distillation.divergence` takes, a feature each.

    Args:
        teachers: checked by `load_teachers`.
        student: whose tasks and tokenizer count.
        tasks: that train on the data set.
        inputs: how it is read.
        examples: its training examples.
        device: to run on.
        temperature: that logits are divided by.
    """
    answers: dict[str, list[list[SoftTargets]]] = {}
    for teacher in teachers:
        trained = teacher.trained
        own = [task for task in find_shared_tasks(trained, student) if task in tasks]
        if not own:
            continue
        alike = _cuts_alike(trained, student)
        tokenizer = TextTokenizer(trained.tokenizer_json, student.max_length if alike else trained.max_length)
        features = inputs.features(examples, tokenizer)
        rows: dict[str, list[SoftTargets]] = {task: [np.zeros(0, dtype=np.float32)] * len(features) for task in own}
        model = trained.model.to(device)
        for chosen in _batches(features):
            encodings = [row for i in chosen for row in features[i].rows]
            padded = pad_batch(encodings, model.input_names, trained.encoder.pad_token_id).arrays
            outputs = model(**{n: torch.from_numpy(a).to(device) for n, a in padded.items()}, tasks=own)
            for task in own:
                told = _answers(trained, task, student.tasks[task], outputs, encodings, temperature)
                for i, row in zip(chosen, told, strict=True):
                    rows[task][i] = row
        model.cpu()
        for task in own:
            if task_kind(student.tasks[task].kind).learns_tags and not alike:
                rows[task] = _realigned(rows[task], features, student, inputs, examples, student.tasks[task].labels)
            answers.setdefault(task, []).append(rows[task])
    return {task: [_mean(same) for same in zip(*told, strict=True)] for task, told in answers.items()}


def _mean(told: Sequence[SoftTargets]) -> SoftTargets:
    """Mean of what several teachers say of a feature; of pieces that not all of them have answered nothing is known."""
    stacked = np.stack(told)
    mean: SoftTargets = stacked.mean(axis=0)
    return np.where(stacked.min(axis=0) < 0, np.float32(NO_SOFT_TARGET), mean)


def _realigned(
    rows: Sequence[SoftTargets],
    features: Sequence[Feature],
    student: TrainedModel,
    inputs: Inputs,
    examples: Sequence[Example],
    tags: Sequence[str],
) -> list[SoftTargets]:
    """A teacher's tags for the student's own pieces."""
    ours = inputs.features(examples, TextTokenizer(student.tokenizer_json, student.max_length))
    return [
        realign_tags(told, theirs.rows[0], own.rows[0], examples[own.example].text, tags)
        for told, theirs, own in zip(rows, features, ours, strict=True)
    ]


def _batches(features: Sequence[Feature]) -> Iterator[list[int]]:
    """Positions of features that run together, of similar length."""
    batch: list[int] = []
    for i in np.argsort([max(map(len, f.rows)) for f in features], kind="stable").tolist():
        longest = max(map(len, features[i].rows))
        if batch and (len(batch) + 1) * len(features[i].rows) * longest > _BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _answers(
    trained: TrainedModel,
    task: str,
    student: TaskInfo,
    outputs: Mapping[str, Tensor],
    encodings: Sequence[Encoding],
    temperature: float,
) -> list[SoftTargets]:
    """Return a teacher's probabilities for the rows of a batch, one array per feature."""
    head = trained.model.head(task)
    index = {label: i for i, label in enumerate(trained.tasks[task].labels)}
    columns = [index[label] for label in student.labels]
    head_outputs = {tensor: outputs[f"{task}.{tensor}"] for tensor in head.tensors}
    return head.soft_targets(head_outputs, columns, encodings, temperature)

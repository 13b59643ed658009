"""Teachers: finished runs, and their soft targets for the training data, computed once before the first step."""

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
from palm_trainer.model.checkpoint import WEIGHTS, load_trained
from palm_trainer.model.checkpoint_files import checkpoint_directory
from palm_trainer.model.heads.base import SoftTargets
from palm_trainer.model.multi_task import TrainedModel
from palm_trainer.tasks import task_kind
from palm_trainer.tensors import NO_SOFT_TARGET
from palm_trainer.training.distillation.alignment import realign_tags

_BATCH_TOKENS = 8192
"""Maximum padded tokens of a batch with more than one feature."""


@dataclass(frozen=True)
class Teacher:
    """The best model of a run, and the digest of its weights."""

    run: Path
    trained: TrainedModel
    digest: str


def load_teachers(runs: Sequence[Path], student: TrainedModel) -> list[Teacher]:
    """Load and check the teachers of a student's tasks. Torch's generator stays as it is.

    A teacher teaches the tasks that it has under the same name. Labels are matched by name. Labels
    that only the teacher has are left out, and the probabilities of the others are scaled to 1.

    Raises:
        CheckpointError: a run does not exist.
        ConfigError: a teacher has no task of the student, a task of another kind or without one of
            its labels, or an `mrc` task with another tokenizer.
    """
    teachers = []
    with torch.random.fork_rng(devices=[]):
        for run in runs:
            trained = load_trained(run)
            _check(run, trained, student)
            weights = (checkpoint_directory(run) / WEIGHTS).read_bytes()
            teachers.append(Teacher(run, trained, hashlib.sha256(weights).hexdigest()))
    return teachers


def find_shared_tasks(trained: TrainedModel, student: TrainedModel) -> list[str]:
    """List the tasks of the student that a model can teach."""
    shared_tasks = []
    for task, info in student.tasks.items():
        if task in trained.tasks and task_kind(info.kind).is_answered:
            shared_tasks.append(task)
    return shared_tasks


def _check(run: Path, trained: TrainedModel, student: TrainedModel) -> None:
    """Check that a run can teach a student."""
    key = f"train.distillation.teachers: {run}"
    shared_tasks = find_shared_tasks(trained, student)
    if not shared_tasks:
        raise ConfigError(
            f"{key} has none of the tasks {', '.join(student.tasks)}; it has {', '.join(trained.tasks)}. "
            "Name them alike, or remove it."
        )
    for task in shared_tasks:
        _check_labels(key, task, trained.tasks[task], student.tasks[task])
        if student.tasks[task].windows is not None and not _tokenizes_alike(trained, student):
            raise ConfigError(
                f"{key}: its task '{task}' answers by token of a window, "
                "and its encoder has another tokenizer than this one, or takes fewer tokens "
                f"than encoder.max_length = {student.max_length}. "
                "Choose a teacher with the same tokenizer and enough positions."
            )


def _check_labels(key: str, task: str, teacher: TaskInfo, student: TaskInfo) -> None:
    """Check that a teacher's task has the same kind and all labels of the student's task."""
    if student.kind != teacher.kind or bool(student.labels) != bool(teacher.labels):
        raise ConfigError(
            f"{key}: its task '{task}' is of kind {teacher.kind} with {len(teacher.labels)} labels, "
            f"not {student.kind} with {len(student.labels)}. "
            "Rename the task, or remove the teacher."
        )
    missing = [label for label in student.labels if label not in teacher.labels]
    if missing:
        raise ConfigError(
            f"{key}: its task '{task}' does not know the label '{missing[0]}' (nor {len(missing) - 1} others), "
            "so the student would never learn to predict it. "
            "Train the teacher on the same labels, or remove it."
        )


def _tokenizes_alike(trained: TrainedModel, student: TrainedModel) -> bool:
    """Return True if a model can read the student's own rows."""
    limit = trained.model.backbone.max_length
    return trained.tokenizer_json == student.tokenizer_json and (limit is None or limit >= student.max_length)


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
    """Compute the mean probabilities of the teachers for each feature of a data set, in eval mode and fp32.

    Args:
        teachers: result of `load_teachers`.
        student: the model to train, whose tasks, labels and tokenizer count.
        tasks: tasks that train on the data set.
        inputs: input layout of the data set.
        examples: training examples.
        device: device to compute on.
        temperature: divisor of the logits.

    Returns:
        Probabilities by task, in the student's order of labels, with the shapes of
        `TaskHead.soft_divergence` for a feature.
    """
    answers: dict[str, list[list[SoftTargets]]] = {}
    for teacher in teachers:
        shared_tasks = [task for task in find_shared_tasks(teacher.trained, student) if task in tasks]
        if shared_tasks:
            probabilities = _predict(
                teacher.trained, student, shared_tasks, inputs, examples, device=device, temperature=temperature
            )
            for task in shared_tasks:
                answers.setdefault(task, []).append(probabilities[task])
    means: dict[str, list[SoftTargets]] = {}
    for task, teacher_answers in answers.items():
        means[task] = list(map(_mean, zip(*teacher_answers, strict=True)))
    return means


@torch.no_grad()
def _predict(
    trained: TrainedModel,
    student: TrainedModel,
    tasks: Sequence[str],
    inputs: Inputs,
    examples: Sequence[Example],
    *,
    device: torch.device,
    temperature: float,
) -> dict[str, list[SoftTargets]]:
    """Compute the probabilities of one teacher for each feature, by task."""
    same_tokens = _tokenizes_alike(trained, student)
    tokenizer = TextTokenizer(trained.tokenizer_json, student.max_length if same_tokens else trained.max_length)
    features = inputs.features(examples, tokenizer)
    probabilities: dict[str, list[SoftTargets]] = {}
    for task in tasks:
        probabilities[task] = [np.zeros(0, dtype=np.float32)] * len(features)
    model = trained.model.to(device)
    for indices in _batches(features):
        rows: list[Encoding] = []
        for index in indices:
            rows.extend(features[index].rows)
        padded = pad_batch(rows, model.input_names, trained.encoder.pad_token_id).arrays
        tensors = {}
        for name, array in padded.items():
            tensors[name] = torch.from_numpy(array).to(device)
        outputs = model(**tensors, tasks=tasks)
        for task in tasks:
            batch_targets = _batch_targets(trained, task, student.tasks[task], outputs, rows, temperature)
            for index, feature_targets in zip(indices, batch_targets, strict=True):
                probabilities[task][index] = feature_targets
    model.cpu()
    for task in tasks:
        if task_kind(student.tasks[task].kind).learns_tags and not same_tokens:
            tags = student.tasks[task].labels
            probabilities[task] = _realign(probabilities[task], features, student, inputs, examples, tags)
    return probabilities


def _mean(probabilities: Sequence[SoftTargets]) -> SoftTargets:
    """Average the soft targets of several teachers.

    Tokens that a teacher lacks have no soft target.
    """
    stacked = np.stack(probabilities)
    mean: SoftTargets = stacked.mean(axis=0)
    return np.where(stacked.min(axis=0) < 0, np.float32(NO_SOFT_TARGET), mean)


def _realign(
    probabilities: Sequence[SoftTargets],
    features: Sequence[Feature],
    student: TrainedModel,
    inputs: Inputs,
    examples: Sequence[Example],
    tags: Sequence[str],
) -> list[SoftTargets]:
    """Assign a teacher's tags to the student's own tokens."""
    student_features = inputs.features(examples, TextTokenizer(student.tokenizer_json, student.max_length))
    realigned = []
    for targets, feature, student_feature in zip(probabilities, features, student_features, strict=True):
        text = examples[student_feature.example].text
        realigned.append(realign_tags(targets, feature.rows[0], student_feature.rows[0], text, tags))
    return realigned


def _batches(features: Sequence[Feature]) -> Iterator[list[int]]:
    """Yield indices of features of similar length that run together."""
    lengths = [max(map(len, feature.rows)) for feature in features]
    batch: list[int] = []
    for index in np.argsort(lengths, kind="stable").tolist():
        padded_tokens = (len(batch) + 1) * len(features[index].rows) * lengths[index]
        if batch and padded_tokens > _BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _batch_targets(
    trained: TrainedModel,
    task: str,
    student: TaskInfo,
    outputs: Mapping[str, Tensor],
    rows: Sequence[Encoding],
    temperature: float,
) -> list[SoftTargets]:
    """Return a teacher's probabilities for the rows of a batch, one array for each feature."""
    head = trained.model.head(task)
    positions = {label: position for position, label in enumerate(trained.tasks[task].labels)}
    columns = [positions[label] for label in student.labels]
    head_outputs = trained.model.head_outputs(task, outputs)
    return head.soft_targets(head_outputs, columns, rows, temperature)

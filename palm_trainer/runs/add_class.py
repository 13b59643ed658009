"""Add a class to a finished run, without training.

`best/` is replaced, with the class as the last label of its task: a vector in the prototype head, and with a Mahalanobis score its mean. What was
fitted on dev stays (temperature, thresholds, the statistics of the other classes), but for the calibration error. metrics.json and report.html
are made anew. `last/`, `best-TASK/` and config.toml tell what was trained, and stay.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from palm_serve.system.plain_text import plain
from palm_serve.types import FloatArray
from palm_trainer.config.loader import Config
from palm_trainer.data.example import Example
from palm_trainer.data.formats import FORMATS
from palm_trainer.data.formats.detect import Detection, detect_format
from palm_trainer.data.formats.text_files import Defects
from palm_trainer.data.label_names import spell_out
from palm_trainer.data.splits import Splits
from palm_trainer.errors import CheckpointError, DataError
from palm_trainer.evaluation.evaluate import Metrics
from palm_trainer.model.checkpoint import load_trained, save_trained
from palm_trainer.model.checkpoint_files import has_checkpoint
from palm_trainer.model.heads.prototype import PrototypeHead
from palm_trainer.model.heads.sequence_label import SequenceLabelHead
from palm_trainer.model.multi_task import MultiTaskModel, TrainedModel
from palm_trainer.runs.class_vectors import evenly_chosen, pooled_vectors, readable_texts, to_unit
from palm_trainer.runs.dev_rows import check_dev_rows
from palm_trainer.runs.evaluate_run import evaluate_again
from palm_trainer.runs.file_names import METRICS
from palm_trainer.runs.job_from_config import evaluation_plan


@dataclass(frozen=True)
class AddedClass:
    """A class that was added to a run.

    Args:
        task: that has it now.
        texts: number of texts that its vector is the mean of.
        has_name: its name is one of them.
        metrics: of the run by split, measured anew.
    """

    task: str
    texts: int
    has_name: bool
    metrics: dict[str, Metrics]


def add_class(run: Path, config: Config, label: str, source: Path, task: str | None = None) -> AddedClass:
    """Add a class to a task of a finished run.

    Args:
        run: the run directory.
        config: its configuration.
        label: name of the class.
        source: file with texts of the class.
        task: its task. None: the only one with a prototype head.

    Raises:
        CheckpointError: the run is not finished, or has no such head.
        DataError: the label exists or cannot be one, or the file does not hold its texts.
    """
    if has_checkpoint(run, "last") and not (run / METRICS).exists():
        raise CheckpointError(f"{run} must be a finished run, got one without {METRICS}. Finish it with --resume.")
    trained = load_trained(run)
    task = _choose_task(run, trained, task)
    _check_label(label, task, trained.tasks[task].labels)
    examples = read_class_texts(source, label, config.tasks[task].field or "", pairs=trained.tasks[task].pairs)
    splits = Splits(config.data, seed=config.train.seed)
    plan = evaluation_plan(config, trained, [name for name in ("dev", "test") if splits.data_sets(name)], splits)
    check_dev_rows(run, config, splits)
    has_name = readable_texts([spell_out(label)], trained.tokenizer_json)[0]
    save_trained(with_class(trained, task, label, examples), run / "best")
    return AddedClass(task, len(evenly_chosen(examples)) + has_name, has_name, evaluate_again(run, plan))


def _choose_task(run: Path, trained: TrainedModel, task: str | None) -> str:
    """Return the task that gets the class."""
    tasks = []
    for name in trained.tasks:
        if isinstance(trained.model.head(name), PrototypeHead):
            tasks.append(name)
    if not tasks:
        raise CheckpointError(
            f"{run} must have a task with head = 'prototype', got none ({', '.join(trained.tasks)}). "
            "Train one: a linear head cannot take a class without training."
        )
    if task is None and len(tasks) > 1:
        raise CheckpointError(f"--task must name one of several tasks ({', '.join(tasks)}), got none. Add it.")
    if task is not None and task not in tasks:
        raise CheckpointError(f"--task must be a task with head = 'prototype' ({', '.join(tasks)}), got '{task}'.")
    return task or tasks[0]


def _check_label(label: str, task: str, labels: Sequence[str]) -> None:
    if label in labels:
        raise DataError(f"NAME must be new to task '{task}', got '{label}', which it has. Choose another name.")
    if not label.strip() or plain(label) != label:
        raise DataError(f"NAME must be a label in one line without control characters, got {label!r}.")


def read_class_texts(source: Path, label: str, field: str, *, pairs: bool) -> list[Example]:
    """Read the texts of one class from a file of any format: a text a line, or rows with a text.

    Args:
        source: the file.
        label: name of the class.
        field: that holds the class, where the rows have labels.
        pairs: True if the task reads pairs of texts.

    Raises:
        DataError: there is no text in it, a row has another label, or does not hold what the task reads.
    """
    detection = Detection("text") if source.suffix == ".txt" else detect_format(source)
    examples = list(FORMATS[detection.format](source, detection.options, Defects()))
    if not examples:
        raise DataError(f"{source} must hold at least one text of '{label}', got none. Write one a line.")
    for example in examples:
        stored = example.fields.get(field)
        if stored not in (None, label):
            raise DataError(
                f"{example.source}: texts of '{label}' must have its label or none, got {stored!r} in '{field}'. "
                "Leave the row out, or mend the label."
            )
        if (example.pair is not None) != pairs:
            expected = "a text and its pair" if pairs else "one text"
            raise DataError(f"{example.source}: a row must hold {expected}, as the task reads. Mend the row.")
    return examples


def with_class(trained: TrainedModel, task: str, label: str, examples: Sequence[Example]) -> TrainedModel:
    """Return the model with one more class of a task, the last. The logits of its other classes stay.

    Args:
        trained: the model.
        task: a task with a prototype head.
        label: name of the class, which is one more of its texts where the encoder can read it.
        examples: texts of the class, at least one.
    """
    head = trained.model.head(task)
    assert isinstance(head, PrototypeHead)
    info = trained.tasks[task]
    vectors = _vectors(trained, evenly_chosen(examples))
    votes = to_unit(vectors)
    name = spell_out(label)
    if readable_texts([name], trained.tokenizer_json)[0]:
        votes = np.concatenate([votes, to_unit(_vectors(trained, [Example(name)]))])
    vector = torch.from_numpy(to_unit(votes.sum(axis=0, keepdims=True))[0]).float()
    statistics = head.decode_arrays()
    mean = None
    if statistics:
        centred = vectors.astype(np.float64).mean(axis=0) - statistics["centre"]
        mean = torch.from_numpy(centred @ statistics["whitening"].T.astype(np.float64)).float()
    heads = {head_name: trained.model.head(head_name) for head_name in trained.model.heads}
    heads[task] = head.with_class(vector, mean)
    for name_of_tagger, tagger_info in trained.tasks.items():
        if tagger_info.decode.given == task:
            tagger = heads[name_of_tagger]
            assert isinstance(tagger, SequenceLabelHead)
            heads[name_of_tagger] = tagger.with_given_class()
    info = info.model_copy(
        update={
            "labels": (*info.labels, label),
            "calibration": info.calibration.model_copy(update={"ece": None}),
        }
    )
    model = MultiTaskModel(trained.model.backbone, heads).train(trained.model.training)
    return replace(trained, model=model, tasks={**trained.tasks, task: info})


def _vectors(trained: TrainedModel, examples: Sequence[Example]) -> FloatArray:
    """Return the vectors of examples, [N, H] float32."""
    by_position: dict[int, FloatArray] = {}
    for positions, vectors in pooled_vectors(trained, examples):
        by_position.update(zip(positions, vectors, strict=True))
    return np.stack([by_position[position] for position in range(len(examples))])

"""Events of a training run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from palm_trainer.evaluation.evaluate import Metrics
from palm_trainer.runs.job import Job
from palm_trainer.training.loop import Step


@dataclass(frozen=True, slots=True)
class Started:
    """Before the first step: the job, and the step that it starts from (0 unless resumed)."""

    job: Job
    first_step: int


@dataclass(frozen=True, slots=True)
class Evaluated:
    """After an evaluation on dev. `epoch` counts passes over the reference data set."""

    step: int
    epoch: float
    metrics: Metrics
    score: float
    best: bool


@dataclass(frozen=True, slots=True)
class Saved:
    """After a snapshot of the Python API was written: a checkpoint (`ckpt`) or a run directory (`predict`)."""

    step: int
    kind: str
    path: Path


@dataclass(frozen=True, slots=True)
class Averaged:
    """After the last step, with `train.checkpoints.average_best`.

    `steps` are those of the averaged checkpoints. `best`: the average was kept as `best/`.
    """

    step: int
    steps: tuple[int, ...]
    score: float
    best: bool


@dataclass(frozen=True, slots=True)
class Finished:
    """After the end: metrics of the best checkpoint by split, and the thresholds chosen on dev by task.

    `interrupted`: the training was stopped before its end.
    """

    metrics: dict[str, Metrics]
    interrupted: bool = False
    thresholds: Mapping[str, float] = field(default_factory=dict)


Event: TypeAlias = Started | Step | Evaluated | Saved | Averaged | Finished

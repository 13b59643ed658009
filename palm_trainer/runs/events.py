"""Events of a training run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from palm_trainer.evaluation.evaluate import (
    Metrics,
)
from palm_trainer.runs.job_from_config import (
    Training,
)
from palm_trainer.training.loop import Step


@dataclass(frozen=True, slots=True)
class Started:
    """Before the first step: what will be trained, and the step that it starts from (0 unless resumed)."""

    training: Training
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
class Finished:
    """After the last step: metrics of the best checkpoint by split, whether training was stopped before its end, and the limits chosen on dev by task."""

    metrics: dict[str, Metrics]
    interrupted: bool = False
    thresholds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Averaged:
    """After the last step, with `train.checkpoints.average_best`: the average of the checkpoints of some steps, and whether it was kept as `best/`."""

    step: int
    steps: tuple[int, ...]
    score: float
    best: bool


Event: TypeAlias = Started | Step | Evaluated | Averaged | Finished

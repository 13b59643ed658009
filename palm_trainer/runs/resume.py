"""What of a run outlives its process: `last/` and what is known of the dev scores; resumed to the bit."""

import hashlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from palm_trainer.config.loader import load_config
from palm_trainer.errors import CheckpointError, PalmError
from palm_trainer.model.atomic_files import write_file
from palm_trainer.model.checkpoint import has_checkpoint, load_trained, load_training_state, save_trained
from palm_trainer.runs import weight_averaging as averaging
from palm_trainer.runs.directory import (
    CONFIG,
    EVENTS,
    METRICS,
    differences,
    forget_later_events,
    forget_run,
)
from palm_trainer.runs.job_from_config import Training


@dataclass
class Progress:
    """What a run remembers beside the loop's own state."""

    best_score: float = -1.0
    evaluations_without_gain: int = 0
    best_by_task: dict[str, float] = field(default_factory=dict)
    candidates: dict[int, float] = field(default_factory=dict)
    """train.checkpoints.average_best: score on dev of the checkpoints that are kept, by step."""


def save_last(training: Training, progress: Progress) -> None:
    """Writes `last/`, from which the run can be resumed."""
    with training.loop.averaged():
        state, last = _state(training, progress), training.config.train.output / "last"
        training.loop.processes.run_on_first(lambda: save_trained(training.trained, last, state))
    if training.loop.processes.is_first:
        averaging.prune(training.config.train.output, progress.candidates)


def _state(training: Training, progress: Progress) -> dict[str, Any]:
    return {
        "loop": training.loop.state_dict(),
        "progress": asdict(progress),
        "rows": _rows(training),
        "teachers": list(training.teachers),
    }


def _rows(training: Training) -> dict[str, int]:
    return {name: len(source.dataset) for name, source in training.loop.sources.items()}


def begin(training: Training) -> None:
    """Makes the run directory new."""
    output = training.config.train.output
    output.mkdir(parents=True, exist_ok=True)
    forget_run(output)
    write_file(output / CONFIG, training.config.dump_toml())


def check_alike(training: Training) -> None:
    """Raises PalmError where one process has read something else than the first."""
    tokenizer = training.trained.tokenizer_json
    own = (_rows(training), training.trained.tasks, hashlib.sha256(tokenizer.encode()).hexdigest())
    processes = training.loop.processes
    if processes.run_on_first(lambda: own) != own:
        raise PalmError(
            f"process {processes.rank} of {processes.size} has read other data, labels or pieces than process 0. Give all of them the same files."
        )


def restore(training: Training, progress: Progress, output: Path) -> None:
    """Puts a training where `last/` was saved; leaves it at its beginning when the run was stopped before that."""
    found = training.loop.processes.run_on_first(lambda: _saved(training, output))
    if found is None:
        return
    weights, state = found
    training.trained.model.load_state_dict(weights)
    training.loop.load_state_dict(state["loop"], averaged=True)
    vars(progress).update(state["progress"])


def _saved(training: Training, output: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Weights and state of `last/`, and no event after it; None where nothing was saved yet."""
    saved = load_config(output / CONFIG)
    changed = differences(saved, training.config)
    if changed:
        raise CheckpointError(
            f"{output} was trained with another configuration ({', '.join(changed)} differ). Resume with {output / CONFIG}, or train into another directory."
        )
    if not has_checkpoint(output, "last") and not (output / METRICS).exists():
        forget_run(output)
        return None
    state = load_training_state(output)
    trained = load_trained(output, "last")
    if (trained.tokenizer_json, trained.tasks, state["rows"]) != (
        training.trained.tokenizer_json,
        training.trained.tasks,
        _rows(training),
    ):
        raise CheckpointError(
            f"{output}: the training data or the encoder is not what it was when {output / 'last'} was saved (rows, labels or vocabulary differ). "
            "Put it back, or train into another directory with --output."
        )
    if state.get("teachers", []) != list(training.teachers):
        raise CheckpointError(
            f"{output}: a run of train.distillation.teachers was trained anew since {output / 'last'} was saved. "
            "Put it back, or train into another directory with --output."
        )
    forget_later_events(output / EVENTS, state["loop"]["step"])
    return trained.model.state_dict(), state

"""Save and restore the state of a run, so that it resumes to the bit."""

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from palm_trainer.config.atomic_files import write_file
from palm_trainer.config.loader import Config, load_config
from palm_trainer.config.schema import PretrainedEncoderConfig, SequenceLabelTask
from palm_trainer.errors import CheckpointError, PalmError
from palm_trainer.model.checkpoint import (
    TRAINING,
    load_trained,
    load_training_state,
    read_description,
    reading,
    save_trained,
)
from palm_trainer.model.checkpoint_files import checkpoint_directory, has_checkpoint
from palm_trainer.runs import weight_averaging as averaging
from palm_trainer.runs.dev_rows import record_dev_rows
from palm_trainer.runs.directory import differences, forget_later_events, forget_run, holds_run, remove_unfinished
from palm_trainer.runs.file_names import CONFIG, EVENTS, METRICS
from palm_trainer.runs.job import Job
from palm_trainer.runs.run_values import record_values
from palm_trainer.training.processes import Processes


@dataclass
class RunProgress:
    """What a run remembers beside the state of the loop.

    `candidates`, for train.checkpoints.average_best: score on dev of each checkpoint that is kept, by step.
    """

    best_score: float = -1.0
    evaluations_without_gain: int = 0
    best_by_task: dict[str, float] = field(default_factory=dict)
    candidates: dict[int, float] = field(default_factory=dict)


def save_last(job: Job, progress: RunProgress) -> None:
    """Write `last/`, from which the run can be resumed."""
    with job.loop.averaged():
        state = training_state(job, progress)
        job.loop.processes.run_on_first(lambda: save_trained(job.trained, job.run / "last", state))
    if job.loop.processes.is_first:
        averaging.prune(job.run, progress.candidates)


def training_state(job: Job, progress: RunProgress) -> dict[str, Any]:
    """Return everything that the next step depends on, the weights aside. All processes call it together."""
    return {
        "loop": job.loop.state_dict(),
        "progress": asdict(progress),
        "rows": _rows(job),
        "teachers": list(job.teachers),
    }


def _rows(job: Job) -> dict[str, int]:
    return {name: source.rows for name, source in job.loop.sources.items()}


def begin(job: Job) -> None:
    """Make the run directory new."""
    job.run.mkdir(parents=True, exist_ok=True)
    forget_run(job.run)
    write_file(job.run / CONFIG, job.config.dump_toml())
    record_dev_rows(job.run, job.config, job.evaluation.splits)
    record_values(job.run, job.config, job.trained.tasks, job.evaluation.splits)


def keep_to_encoder_of_run(config: Config, run: Path) -> Config:
    """Return the configuration with what its `[encoder]` stood for when a run of it began.

    That is the pooling of `auto`, and the path, length and digest of a run that it started from, which may be gone since.
    Runs from before `auto` have `cls`, which was the default then.
    """
    encoder = config.encoder
    if not (run / CONFIG).exists():
        return config
    saved = load_config(run / CONFIG).encoder
    settings: dict[str, object] = {}
    if encoder.pooling == "auto":
        settings["pooling"] = saved.pooling
    if isinstance(saved, PretrainedEncoderConfig) and isinstance(encoder, PretrainedEncoderConfig) and saved.digest:
        if encoder.digest is None:
            settings["digest"] = saved.digest
        if f"/{saved.model}".endswith(f"/{encoder.model}"):
            settings["model"] = saved.model
            if "max_length" not in encoder.model_fields_set:
                settings["max_length"] = saved.max_length
    return config.model_copy(update={"encoder": encoder.model_copy(update=settings)})


def find_encoder_to_resume(config: Config) -> Path | None:
    """Return the run of a configuration if its `last/` stands for an encoder that came from another run.

    The other run may be gone, or trained anew.
    """
    encoder, run = config.encoder, config.train.output
    started_from_run = isinstance(encoder, PretrainedEncoderConfig) and encoder.digest is not None
    return run if started_from_run and has_checkpoint(run, "last") else None


def find_run_to_resume(output: Path, processes: Processes) -> bool:
    """Return True if the output directory holds a run. All processes call it together.

    Raises:
        CheckpointError: another process sees a run and the first, which is to write it, sees none. It would begin anew.
    """
    holds_run_by_rank = processes.gather(holds_run(output))
    if any(holds_run_by_rank) and not holds_run_by_rank[0]:
        raise CheckpointError(
            f"{output} must be one directory for all processes, and holds a run for process {holds_run_by_rank.index(True)}, but none for process 0. "
            "Put it on a file system that all machines share."
        )
    return holds_run_by_rank[0]


def keep_to_roles_of_checkpoint(config: Config, run: Path) -> Config:
    """Return the configuration with `roles = "ignore"` for the tasks that have none in the run's last checkpoint.

    Runs from before roles were learnt have none, even on data with roles.
    """
    if not has_checkpoint(run, "last"):
        return config
    directory = checkpoint_directory(run, "last")
    with reading(f"checkpoint {directory} is damaged", "Use another run, or train again with --overwrite."):
        saved = read_description(directory)
    tasks = dict(config.tasks)
    for name, task in config.tasks.items():
        has_roles = name in saved.tasks and bool(saved.tasks[name].decode.span_types)
        if isinstance(task, SequenceLabelTask) and task.roles is None and not has_roles:
            tasks[name] = task.model_copy(update={"roles": "ignore"})
    return config.model_copy(update={"tasks": tasks})


def keep_to_older_keys(config: Config, older_configs: Iterable[Config]) -> Config:
    """Return the configuration with the meaning that keys had when older runs began, which did not have them.

    Args:
        config: keys that its user has set stay.
        older_configs: of the runs.
    """
    has_older_rate = any(older.train.crf_learning_rate is None for older in older_configs)
    if not has_older_rate or "crf_learning_rate" in config.train.model_fields_set:
        return config
    return config.model_copy(update={"train": config.train.model_copy(update={"crf_learning_rate": None})})


def learns_roles_first(job: Job, older_config: Config) -> bool:
    """Return True if a task of a job has learnt roles that the configuration of an older run ignores."""
    return any(
        getattr(older_config.tasks[name], "roles", None) == "ignore" and info.decode.span_types
        for name, info in job.trained.tasks.items()
    )


def check_alike(job: Job) -> None:
    """Raise PalmError where a process has read something else than the first, or has other settings."""
    processes = job.loop.processes
    if processes.size == 1:
        return
    tokenizer_digest = hashlib.sha256(job.trained.tokenizer_json.encode()).hexdigest()
    data_digests = {name: source.digest() for name, source in job.loop.sources.items()}
    facts = (_rows(job), job.trained.tasks, tokenizer_digest, data_digests)
    first_facts, first_settings = processes.run_on_first(lambda: (facts, job.train))
    process = f"process {processes.rank} of {processes.size}"
    if first_facts != facts:
        raise PalmError(
            f"{process} has read other data, labels or pieces than process 0. Give all of them the same files."
        )
    changed_keys = differences(first_settings, job.train, "train.")
    if changed_keys:
        raise PalmError(
            f"{process} must have the settings of process 0, and has others ({', '.join(changed_keys)} differ). "
            "Give all of them the same configuration and the same --set."
        )


def restore(job: Job, progress: RunProgress) -> None:
    """Put a job where `last/` was saved. It stays at its beginning when the run was stopped before that."""
    saved = job.loop.processes.run_on_first(lambda: _load_last(job))
    if saved is None:
        return
    weights, state = saved
    with reading(f"{job.run / 'last' / TRAINING} does not fit the run", "Start again with --overwrite."):
        job.trained.model.load_state_dict(weights)
        job.loop.load_state_dict(state["loop"], averaged=True)
        vars(progress).update(state["progress"])


def _load_last(job: Job) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return the weights and the state of `last/`, and drop later events. None where nothing was saved yet."""
    output: Path = job.run
    remove_unfinished(output)
    saved_config = keep_to_roles_of_checkpoint(load_config(output / CONFIG), output)
    changed_keys = differences(saved_config, keep_to_roles_of_checkpoint(job.config, output))
    if changed_keys:
        raise CheckpointError(
            f"{output} was trained with another configuration ({', '.join(changed_keys)} differ). "
            f"Resume with {output / CONFIG}, or train into another directory."
        )
    if not has_checkpoint(output, "last") and not (output / METRICS).exists():
        forget_run(output)
        return None
    state = load_training_state(output)
    saved = load_trained(output, "last")
    with reading(f"{output / 'last' / TRAINING} is damaged", "Start again with --overwrite."):
        saved_facts = (saved.tokenizer_json, saved.tasks, state["rows"])
        step = int(state["loop"]["step"])
    if saved_facts != (job.trained.tokenizer_json, job.trained.tasks, _rows(job)):
        raise CheckpointError(
            f"{output}: the training data or the encoder is not what it was when {output / 'last'} was saved (rows, labels or vocabulary differ). "
            "Put it back, or train into another directory with --output."
        )
    if state.get("teachers", []) != list(job.teachers):
        raise CheckpointError(
            f"{output}: a run of train.distillation.teachers was trained anew since {output / 'last'} was saved. "
            "Put it back, or train into another directory with --output."
        )
    forget_later_events(output / EVENTS, step)
    return saved.model.state_dict(), state

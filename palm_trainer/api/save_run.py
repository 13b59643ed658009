"""Files that a training writes: PALM's `ckpt.stepN/` and `pred.stepN/`, and a run directory that palm-export and palm-train read."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palm_trainer.api.declarations import Task
from palm_trainer.api.head import DeclaredHead
from palm_trainer.api.reader.text_reader import TextReader
from palm_trainer.api.wiring import Wired
from palm_trainer.config.atomic_files import write_file
from palm_trainer.config.loader import Config, DataConfig, EncoderConfig, TaskConfig, TrainConfig
from palm_trainer.config.schema import (
    FORMAT_OPTIONS,
    TASK_KINDS,
    PretrainedEncoderConfig,
    ScratchEncoderConfig,
    data_config,
)
from palm_trainer.data.targets.base import Target
from palm_trainer.errors import CheckpointError, ConfigError
from palm_trainer.evaluation.calibration import FALSE_REJECTION
from palm_trainer.evaluation.evaluate import Metrics
from palm_trainer.model.checkpoint import save_trained
from palm_trainer.model.multi_task import TrainedModel
from palm_trainer.runs.directory import forget_later_events, forget_run
from palm_trainer.runs.file_names import CONFIG, EVENTS, METRICS
from palm_trainer.runs.job import Job

_TYPES = ("ckpt", "predict")


@dataclass(frozen=True)
class Saver:
    """Where to save, every how many steps, and what: `ckpt`, `predict` or both."""

    path: Path
    steps: int
    types: tuple[str, ...]

    @classmethod
    def of(cls, save_path: str | Path, save_steps: int, save_type: str) -> "Saver":
        """Check the arguments of `set_saver`.

        Args:
            save_path: directory of the checkpoints.
            save_steps: steps between them.
            save_type: `ckpt`, `predict` or `ckpt,predict`.

        Raises:
            ConfigError: a wrong number or type.
        """
        types = tuple(filter(None, map(str.strip, save_type.split(","))))
        if not types or any(kind not in _TYPES for kind in types):
            raise ConfigError(f"set_saver: save_type must be 'ckpt', 'predict' or 'ckpt,predict', got '{save_type}'.")
        if save_steps < 1:
            raise ConfigError(
                f"set_saver: save_steps must be at least 1, got {save_steps}. The end of the training is saved in any case."
            )
        return cls(Path(save_path), int(save_steps), types)


def save_run(path: Path, trained: TrainedModel, config: Config | None, metrics: Metrics | None) -> None:
    """Write `best/`, and beside it `config.toml` and `metrics.json` where there are some.

    Args:
        path: the run directory.
        trained: calibrated already.
        config: of the run. None: the user wrote a part of the model, so that no configuration describes it.
        metrics: on dev. None: dev was not evaluated.

    Raises:
        CheckpointError: the disk refuses.
    """
    save_trained(trained, path / "best")
    if config is None:
        return
    _write(path / CONFIG, config.dump_toml())
    if metrics is not None:
        _write(path / METRICS, json.dumps({"dev": metrics}, indent=2, ensure_ascii=False) + "\n")


def begin_run(job: Job, *, resumed: bool) -> None:
    """Make the run directory new on the first process. A resumed training keeps what is there, but for later events.

    Args:
        job: writes a run directory.
        resumed: the training goes on from a checkpoint.

    Raises:
        CheckpointError: the disk refuses.
    """

    def make_directory() -> None:
        try:
            job.run.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(
                f"{job.run} cannot be made: {error.strerror}. Choose another path in set_saver."
            ) from error
        if resumed:
            forget_later_events(job.run / EVENTS, job.loop.step)
        else:
            forget_run(job.run)
        if job.evaluation.config is not None:
            _write(job.run / CONFIG, job.config.dump_toml())

    job.loop.processes.run_on_first(make_directory)


def run_config(wired: Wired, epochs: float, encoder_name: str | None, train: TrainConfig) -> Config:
    """Return the configuration that trains the same model.

    Args:
        wired: the model and its data, without custom parts.
        epochs: of the reference.
        encoder_name: directory or name of the pretrained weights. None: none were loaded.
        train: the section `[train]`.
    """
    tasks = {}
    data = {}
    if encoder_name is None:  # a configuration freezes pretrained weights only
        train = train.model_copy(update={"freeze_layers": 0, "freeze_embeddings": False})
    for name, members in wired.groups.items():
        data[name] = _data(members, epochs, train)
        for task in members:
            tasks[task.name] = _task(task, name, wired.targets[task.name])
    return Config(encoder=_encoder(wired.trained, encoder_name), data=data, tasks=tasks, train=train)


def _encoder(trained: TrainedModel, encoder: str | None) -> EncoderConfig:
    shared = {"max_length": trained.max_length, "pooling": trained.model.backbone.pooling}
    if encoder is not None:
        directory = Path(encoder).expanduser()
        model = str(directory.resolve()) if directory.is_dir() else encoder
        return PretrainedEncoderConfig.model_validate({"model": model, **shared})
    settings: Any = trained.model.backbone.encoder.config
    shape = {
        "layers": int(settings.num_hidden_layers),
        "hidden_size": int(settings.hidden_size),
        "heads": int(settings.num_attention_heads),
        "vocab_size": max(64, int(settings.vocab_size)),
    }
    return ScratchEncoderConfig.model_validate({"model": "scratch", **shared, **shape})


def _data(members: Sequence[Task], epochs: float, train: TrainConfig) -> DataConfig:
    task = members[0]
    reader, dev = task.fitted, task.evaluation_reader
    assert isinstance(reader, TextReader)  # others are saved without a configuration
    out_of_scope: list[Path] = []
    for member in members:
        if member.rejection and member.rejection.reader:
            out_of_scope.append(member.rejection.reader.path)
    values: dict[str, Any] = {
        "format": reader.format,
        "train": (reader.path,),
        "dev": (dev.path,) if isinstance(dev, TextReader) else (),
        "out_of_scope": tuple(dict.fromkeys(out_of_scope)),
        "mix_ratio": task.mix_ratio if train.mixing == "mix_ratio" else 1.0,
        "epochs": epochs * task.mix_ratio if train.mixing == "per_task_epochs" else None,
        "substitute": reader.substitute,
    }
    return data_config(values | {key: getattr(reader.options, key) for key in FORMAT_OPTIONS[reader.format]})


def _task(task: Task, data: str, target: Target) -> TaskConfig:
    _, head = task.declared
    assert isinstance(head, DeclaredHead)
    decode = target.info.decode
    options: dict[str, Any] = {
        "crf": decode.crf,
        "roles": getattr(head, "roles", None),
        "head": getattr(head, "head", None),
        "names": getattr(head, "names", None),
        "learning_strategy": getattr(head, "learning_strategy", None),
        "match_label": decode.match_label or None,
        "margin": getattr(head, "margin", None),
        "max_query_tokens": decode.max_query_tokens,
        "doc_stride_tokens": decode.doc_stride_tokens,
        "max_answer_tokens": decode.max_answer_tokens,
        "n_best": decode.n_best,
        "null_threshold": decode.null_threshold,
        "false_rejection": None
        if task.rejection is None
        else task.rejection.settings.false_rejection or FALSE_REJECTION,
        "out_of_scope_score": None if task.rejection is None else task.rejection.settings.out_of_scope_score,
    }
    model = TASK_KINDS.members[head.kind]
    settings = {}
    for key, value in options.items():
        if key in model.model_fields and value is not None:
            settings[key] = value
    return model(
        kind=head.kind,
        data=(data,),
        role=target.info.role,
        field=target.field or None,
        weight=task.weight,
        auxiliary=task.auxiliary,
        dropout=head.dropout,
        **settings,
    )


def _write(path: Path, text: str) -> None:
    """Replaces a file as a whole."""
    try:
        write_file(path, text)
    except OSError as error:
        raise CheckpointError(
            f"{path} could not be written: {error.strerror}. Free some space or choose another path."
        ) from error

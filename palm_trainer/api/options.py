"""What `build_backward(options=...)` takes: keys of `[train]`, with the values and under the rules of a configuration."""

from collections.abc import Mapping, Sequence
from typing import Any

from palm_trainer.api.declarations import Task
from palm_trainer.config.loader import TrainConfig, check_section
from palm_trainer.config.moved_keys import move_old_keys, warn_moved
from palm_trainer.config.rules import nearest_path, training_faults
from palm_trainer.config.schema import ClassifyTask, key_paths
from palm_trainer.errors import ConfigError, WiringError
from palm_trainer.tasks import task_kind

OPTIONS = ("balancing", "regularization", "distillation")
_ADAM_HAS = ("layer_decay", "ema_decay")
"""Keys of `regularization` that are arguments of Adam and build_backward."""
_OWN_CANNOT = (
    ("regularization", "label_smoothing"),
    ("regularization", "r_drop"),
    ("regularization", "fgm"),
    ("regularization", "word_dropout"),
    ("distillation", "teachers"),
)
"""Options that reach into readers, backbones and heads of the package."""


def read_options(options: Mapping[str, Any]) -> TrainConfig:
    """The options among the defaults of `[train]`; `model_fields_set` names those that were given. Raises ConfigError, a line each fault."""
    raw: dict[str, Any] = {"train": dict(options)}
    moved, faults = move_old_keys(raw)
    if faults:
        raise ConfigError("\n".join(faults).replace("train.", "options."))
    for old_path in moved:
        warn_moved(old_path, "options")
    settings: dict[str, Any] = raw["train"]
    for key in settings:
        if key not in OPTIONS:
            _refuse(key)
    regularization = settings.get("regularization")
    if isinstance(regularization, Mapping):
        for key in _ADAM_HAS:
            if key in regularization:
                _refuse(f"regularization.{key}")
    return check_section(TrainConfig, {"output": "unused", **settings}, "options")


def _refuse(key: str) -> None:
    """Raise ConfigError for a key that is no option."""
    if key in key_paths(TrainConfig).values():
        raise ConfigError(
            f"options.{key}: said elsewhere in Python, by Adam, build_backward, the readers, set_saver or set_evaluator; options are: {', '.join(OPTIONS)}"
        )
    known = {name: path for name, path in key_paths(TrainConfig).items() if path.partition(".")[0] in OPTIONS}
    raise ConfigError(f"options.{key}: unknown key{nearest_path(key, known)}")


def check_options(options: TrainConfig, groups: Mapping[str, Sequence[Task]], own: bool) -> None:
    """Raises ConfigError for options that do not fit the tasks, as grouped by their data; `own`: whether the user wrote a part of the model or a reader."""
    given = options.model_dump(include=set(OPTIONS), exclude_unset=True)
    tasks = {task.name: _table(task, data) for data, members in groups.items() for task in members}
    faults = list(training_faults(given, {}, tasks))
    for section, key in _OWN_CANNOT if own else ():
        if given.get(section, {}).get(key):
            faults.append(
                f"train.{section}.{key}: reaches into readers, backbones and heads of the package, and one of these is your own; remove it"
            )
    if own and options.balancing.method == "gradnorm":
        faults.append(
            "train.balancing.method: 'gradnorm' looks for the last block of the encoder; choose another for your own"
        )
    if faults:
        raise ConfigError("\n".join(faults).replace("train.", "options."))


def check_rejection(task: Task, share: float | None, score: str | None) -> ClassifyTask:
    """The task's `false_rejection` and `out_of_scope_score`. Raises WiringError for a task that is no classifier of the package, ConfigError for values."""
    _, head = task.declared
    if task.own_head is not None or not task_kind(head.kind).detects_out_of_scope:
        raise WiringError(
            f"trainer '{task.name}': set_out_of_scope is for palm.head.Classify, not {type(head).__name__}. Leave it out."
        )
    given = {
        key: value for key, value in (("false_rejection", share), ("out_of_scope_score", score)) if value is not None
    }
    return check_section(ClassifyTask, {"kind": head.kind, "data": [task.name], **given}, "set_out_of_scope")


def _table(task: Task, data: str) -> dict[str, Any]:
    """The task as `[tasks.NAME]` has it, where training heeds it."""
    _, head = task.declared
    dropout = {"dropout": head.dropout} if task.own_head is None and hasattr(head, "dropout") else {}
    return {"kind": head.kind, "data": [data], "weight": task.weight, **dropout}

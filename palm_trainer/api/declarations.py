"""Declarations of a Trainer: its task, its backward settings, and the types that users get from it."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from palm_serve.bundle.manifest import Role
from palm_trainer.api.head import DeclaredHead
from palm_trainer.api.head.base_head import Head as UserHead
from palm_trainer.api.optimizer.base_optimizer import Optimizer
from palm_trainer.api.reader.base_reader import Reader
from palm_trainer.api.reader.text_reader import TextReader
from palm_trainer.config.loader import TrainConfig, check_section
from palm_trainer.config.mappings import absent
from palm_trainer.config.moved_keys import move_old_keys, warn_moved
from palm_trainer.config.rules import nearest_path
from palm_trainer.config.schema import ClassifyTask, inner_section, key_paths
from palm_trainer.data.dataset import TrainingBatch
from palm_trainer.errors import ConfigError, WiringError
from palm_trainer.model.encoders import Encoder
from palm_trainer.tasks import task_kind
from palm_trainer.training.loop import Step

AnyHead = DeclaredHead | UserHead
"""A head of the package, as declared, or one that the user wrote."""

_ROLES: dict[str, tuple[Role, str]] = {
    "intent": ("intent", "classify"),
    "slot": ("slots", "sequence_label"),
    "slots": ("slots", "sequence_label"),
}
"""Task name and kind -> role in `Parse`."""


_ELSEWHERE = {
    "output": "set_saver",
    "resume": "load_ckpt(..., resume=True)",
    "epochs": "fit_reader or fit_readers_with_mixratio",
    "reference": "fit_readers_with_mixratio",
    "batch_size": "the readers",
    "seed": "the readers",
    "learning_rate": "Adam",
    "weight_decay": "build_backward",
    "device": "build_backward",
    "precision": "build_backward",
    "regularization.layer_decay": "Adam",
    "regularization.ema_decay": "build_backward",
}
"""Keys of `[train]` that are arguments of other calls, and where."""

_OF_ADAM = {
    "head_learning_rate": "head_lr",
    "max_grad_norm": "max_grad_norm",
    "freeze_layers": "freeze_layers",
    "freeze_embeddings": "freeze_embeddings",
}
"""Keys of `[train]` that Adam may set too."""


@dataclass(frozen=True)
class Backward:
    """The settings of `build_backward`. `options` holds the keys of `[train]` that were set, checked."""

    optimizer: Optimizer
    weight_decay: float
    ema_decay: float | None
    device: str
    precision: str
    options: Mapping[str, Any]

    def train_settings(self) -> dict[str, Any]:
        """Return all that optimizer, arguments and options say, as `[train]` has it."""
        optimizer = self.optimizer
        settings: dict[str, Any] = {
            "schedule": "constant",
            "warmup_ratio": 0.0,
            "learning_rate": optimizer.lr,
            "head_learning_rate": optimizer.head_lr,
            "max_grad_norm": optimizer.max_grad_norm,
            "freeze_layers": optimizer.freeze_layers,
            "freeze_embeddings": optimizer.freeze_embeddings,
            "weight_decay": self.weight_decay,
            "device": self.device,
            "precision": self.precision,
            **self.options,
        }
        regularization = {"layer_decay": optimizer.layer_decay, **settings.get("regularization", {})}
        if self.ema_decay is not None:
            regularization["ema_decay"] = self.ema_decay
        return {**settings, "regularization": regularization}


def read_options(optimizer: Optimizer, options: Mapping[str, Any]) -> dict[str, Any]:
    """Check keys of `[train]` from Python, and return them under their new names.

    Args:
        optimizer: whose arguments say some of the keys.
        options: keys with their values, as a configuration has them.

    Raises:
        ConfigError: with a line for each key that is unknown, wrong, or an argument of another call.
    """
    raw: dict[str, Any] = {"train": copy.deepcopy(dict(options))}  # keys are moved in place
    moved, faults = move_old_keys(raw)
    if faults:
        raise ConfigError("\n".join(faults).replace("train.", "options."))
    for old_path in moved:
        warn_moved(old_path, "options")
    settings: dict[str, Any] = raw["train"]
    for key, value in settings.items():
        _check_key(key, optimizer)
        for inner_key in value if isinstance(value, Mapping) else ():
            if f"{key}.{inner_key}" in _ELSEWHERE:
                _check_key(f"{key}.{inner_key}", optimizer)
    if optimizer.lr_schedualer is not None and {"schedule", "warmup_ratio"} & settings.keys():
        raise ConfigError("options.schedule: the optimizer has an lr_schedualer. Leave one of them out.")
    micro_batches = settings.get("accumulate_steps", 1)
    batch_size = micro_batches if isinstance(micro_batches, int) else 1  # the readers' is checked when they are known
    check_section(TrainConfig, {"output": "unused", "batch_size": max(1, batch_size), **settings}, "options")
    return settings


def _check_key(key: str, optimizer: Optimizer) -> None:
    """Raise ConfigError for a key that is unknown, or an argument of another call."""
    paths = key_paths(TrainConfig)
    if key in _ELSEWHERE:
        keys = absent(TrainConfig.model_fields, _ELSEWHERE)
        options = ", ".join(sorted(keys, key=lambda name: inner_section(TrainConfig, name) is None))
        raise ConfigError(f"options.{key} is set elsewhere in Python: by {_ELSEWHERE[key]}. Options: {options}.")
    if key not in TrainConfig.model_fields:
        raise ConfigError(f"options.{key} is not an option.{nearest_path(key, paths)}")
    argument = _OF_ADAM.get(key, "")
    if argument and optimizer.sets(argument):
        raise ConfigError(f"options.{key}: Adam has {argument} already. Leave one of them out.")


@dataclass(frozen=True)
class Rejection:
    """Settings of out-of-scope detection: the task's keys in a configuration, and a reader of such text, or None."""

    settings: ClassifyTask
    reader: TextReader | None


@dataclass(eq=False)
class Task:
    """A task while its training is put together; each part is set by the call of that name."""

    name: str
    mix_ratio: float = 1.0
    weight: float = 1.0
    reuse_head_with: str | None = None
    auxiliary: bool = False
    backbone: Encoder | None = None
    head: AnyHead | None = None
    reader: Reader | None = None
    predict_reader: Reader | None = None
    evaluation_reader: Reader | None = None
    rejection: Rejection | None = None

    @property
    def declared(self) -> tuple[Encoder, AnyHead]:
        """Backbone and head. Raises WiringError when `build_forward` was not called."""
        if self.backbone is None or self.head is None:
            raise WiringError(
                f"trainer '{self.name}' has no head yet. Call its build_forward(backbone, head) first; to predict only, build_predict_forward."
            )
        return self.backbone, self.head

    @property
    def fitted(self) -> Reader:
        """The reader of the training data. Raises WiringError when there is none."""
        if self.reader is None:
            raise WiringError(f"trainer '{self.name}' has no training data yet. Call fit_reader(reader) first.")
        return self.reader

    @property
    def answers(self) -> bool:
        """True for a task that is evaluated, exported and asked: neither auxiliary nor a masked LM."""
        if self.auxiliary:
            return False
        return self.head is None or not self.has_kind or task_kind(self.head.kind).is_answered

    @property
    def custom_head(self) -> UserHead | None:
        """The head, where the user wrote it."""
        return self.head if isinstance(self.head, UserHead) else None

    @property
    def has_kind(self) -> bool:
        """True for a head of a task kind. Without one the task is not evaluated, saved as a run or exported."""
        return self.head is None or self.head.kind != "custom"

    @property
    def role(self) -> Role:
        """`Parse` answers with the classifier `intent` and the tagger `slot` or `slots`, by these names."""
        role, kind = _ROLES.get(self.name, ("", ""))
        return role if self.head is not None and self.head.kind == kind else ""


@dataclass(frozen=True, eq=False)
class LossVar:
    """The loss that `build_forward` promises: its value exists in each training step only."""

    tasks: tuple[str, ...]
    owner: object = field(repr=False, default=None)


class Batch(dict[str, npt.NDArray[np.generic]]):
    """A batch as a dict of the reader's registered attributes. `data` and `micro_batches` are the engine's."""

    def __init__(
        self, arrays: dict[str, npt.NDArray[np.generic]], data: str, micro_batches: Sequence[TrainingBatch]
    ) -> None:
        super().__init__(arrays)
        self.data = data
        self.micro_batches = tuple(micro_batches)

    @property
    def content(self) -> TrainingBatch:
        """The first micro-batch: the whole batch, unless it is cut."""
        return self.micro_batches[0]


@dataclass(frozen=True, slots=True)
class TaskStep:
    """A step from the view of one task: `step` from 1 in its epoch, `epoch` from 0, as PALM's log lines have them."""

    whole: Step
    task: str
    step: int
    steps_per_epoch: int
    epoch: int
    loss: float

    def line(self, speed: float) -> str:
        """PALM's log line of a single task; `speed` in steps/s."""
        return f"step {self.step}/{self.steps_per_epoch} (epoch {self.epoch}), loss: {self.loss:.3f}, speed: {speed:.2f} steps/s"

    def global_line(self, speed: float) -> str:
        """PALM's log line of several tasks."""
        return f"global step: {self.whole.step}, {self.task}: {self.line(speed)}"


def loss_arrays(step: Step) -> dict[str, npt.NDArray[np.float64]]:
    """Return the loss of each task of a step as `{NAME.loss: value}`."""
    losses = {}
    for task, loss in step.losses.items():
        losses[f"{task}.loss"] = np.array(loss)
    return losses

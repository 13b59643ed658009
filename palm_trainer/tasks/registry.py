"""The task kinds by name. A new kind is added here, or with `register_task_kind`."""

from collections.abc import Iterable

from palm_serve.bundle.manifest import KINDS, KindFacts, TaskInfo, register_kind
from palm_trainer.config.schema import TASK_KINDS, TaskConfig
from palm_trainer.tasks.base import TaskKind
from palm_trainer.tasks.classify import ClassifyKind
from palm_trainer.tasks.masked_lm import MaskedLmKind
from palm_trainer.tasks.match import MatchKind
from palm_trainer.tasks.mrc import MrcKind
from palm_trainer.tasks.multi_label import MultiLabelKind
from palm_trainer.tasks.sequence_label import SequenceLabelKind

_BUILT_IN: tuple[TaskKind, ...] = (
    ClassifyKind(),
    MultiLabelKind(),
    SequenceLabelKind(),
    MatchKind(),
    MrcKind(),
    MaskedLmKind(),
)
_TASK_KINDS = {kind.name: kind for kind in _BUILT_IN}


def register_task_kind(kind: TaskKind) -> None:
    """Add a task kind, its head and its section of the configuration.

    `palm_serve.decoding.register_served_kind` adds the kind to the server. It comes first where the kind reads pairs.
    """
    from palm_trainer.model.heads import register_head

    if kind.name not in KINDS:
        register_kind(KindFacts(kind.name))
    TASK_KINDS.members[kind.name] = kind.section
    register_head(kind.head)
    _TASK_KINDS[kind.name] = kind


def task_kind(name: str) -> TaskKind:
    """Return the task kind of this name."""
    return _TASK_KINDS[name]


def is_scored(settings: TaskConfig) -> bool:
    """Return True for a task that is evaluated: neither an auxiliary one nor one that is never answered."""
    return not settings.auxiliary and task_kind(settings.kind).is_answered


def train_every_embedding(infos: Iterable[TaskInfo]) -> bool:
    """Return True if one of the tasks trains rows of the embedding table that no text of the data holds."""
    return any(task_kind(info.kind).trains_every_embedding for info in infos)

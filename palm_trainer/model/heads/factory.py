"""The head classes by task kind. A new kind's head is added here, or with `register_head`."""

from palm_serve.bundle.manifest import TaskInfo
from palm_trainer.model.heads.base import HeadSettings, TaskHead
from palm_trainer.model.heads.classify import ClassifyHead
from palm_trainer.model.heads.masked_lm import MaskedLmHead
from palm_trainer.model.heads.match import MatchHead
from palm_trainer.model.heads.mrc import MrcHead
from palm_trainer.model.heads.multi_label import MultiLabelHead
from palm_trainer.model.heads.prototype import PrototypeHead
from palm_trainer.model.heads.sequence_label import SequenceLabelHead

_BUILT_IN: tuple[type[TaskHead], ...] = (
    ClassifyHead,
    MultiLabelHead,
    SequenceLabelHead,
    MatchHead,
    MrcHead,
    MaskedLmHead,
)
_HEADS = {head.kind: head for head in _BUILT_IN}
_VARIANTS: dict[str, type[TaskHead]] = {PrototypeHead.variant: PrototypeHead}


def register_head(head: type[TaskHead]) -> None:
    """Add the head class of a task kind."""
    _HEADS[head.kind] = head


def head_class(kind: str) -> type[TaskHead]:
    """Return the head class of a task kind."""
    return _HEADS[kind]


def make_head(
    name: str,
    info: TaskInfo,
    input_dim: int,
    *,
    dropout: float = 0.1,
    label_smoothing: float = 0.0,
    margin: float = 0.5,
    embedding: tuple[int, int] | None = None,
    variant: str = "",
    given_classes: int = 0,
) -> TaskHead:
    """Build the head that a task's manifest entry describes.

    Args:
        name: task name, for messages.
        info: manifest entry of the task.
        input_dim: hidden size of the encoder.
        dropout: probability of dropout on the head's input, while training.
        label_smoothing: share of the probability that is spread over all classes, while training.
        margin: margin of a ranker's loss.
        embedding: shape of the encoder's embedding table, with which masked_lm decodes.
        variant: `prototype` for the head of a classifier by class vectors. Empty: the usual head of the kind.
        given_classes: number of classes of the task that this one is decoded given. 0: there is none.

    Raises:
        WiringError: a masked_lm head without `embedding`.
    """
    settings = HeadSettings(name, input_dim, dropout, label_smoothing, margin, embedding, given_classes)
    head = _VARIANTS[variant] if variant else head_class(info.kind)
    return head.from_task(info, settings)

"""Component 3: output layers."""

from palm_serve.bundle.manifest import TaskInfo
from palm_trainer.errors import WiringError
from palm_trainer.head.base import IGNORE, Head, LossSum
from palm_trainer.head.classify import Classify
from palm_trainer.head.sequence_label import SequenceLabel

__all__ = ["IGNORE", "Classify", "Head", "LossSum", "SequenceLabel", "make_head"]


def make_head(name: str, info: TaskInfo, input_dim: int, *, dropout: float = 0.1, label_smoothing: float = 0.0) -> Head:
    """The head that a task's manifest entry describes. Raises WiringError for a kind without a head."""
    match info.kind:
        case "classify":
            return Classify(len(info.labels), input_dim, dropout, label_smoothing=label_smoothing)
        case "sequence_label":
            return SequenceLabel(info.labels, input_dim, dropout, crf=info.decode.crf)
    raise WiringError(
        f"task '{name}': there is no head for kind '{info.kind}'. Kinds with a head: classify, sequence_label."
    )

"""From a task's manifest entry to its head: the only place that knows every head of the engine."""

from palm_serve.bundle.manifest import TaskInfo
from palm_trainer.errors import WiringError
from palm_trainer.model.heads.base import Head
from palm_trainer.model.heads.classify import Classify
from palm_trainer.model.heads.masked_lm import MaskedLM
from palm_trainer.model.heads.match import Match
from palm_trainer.model.heads.mrc import MRC
from palm_trainer.model.heads.multi_label import MultiLabel
from palm_trainer.model.heads.sequence_label import SequenceLabel


def make_head(
    name: str,
    info: TaskInfo,
    input_dim: int,
    *,
    dropout: float = 0.1,
    label_smoothing: float = 0.0,
    margin: float = 0.5,
    embedding: tuple[int, int] | None = None,
) -> Head:
    """The head that a task's manifest entry describes.

    Args:
        name: of the task.
        info: its manifest entry.
        input_dim: hidden size of the backbone.
        dropout, label_smoothing, margin: matter to training only.
        embedding: shape of the backbone's embedding table, which masked_lm decodes with. Raises WiringError where that is missing.
    """
    match info.kind:
        case "classify":
            statistics = info.calibration.out_of_scope == "mahalanobis"
            return Classify(
                len(info.labels), input_dim, dropout, label_smoothing=label_smoothing, statistics=statistics
            )
        case "multi_label":
            return MultiLabel(len(info.labels), input_dim, dropout)
        case "sequence_label":
            return SequenceLabel(info.labels, input_dim, dropout, crf=info.decode.crf)
        case "match":
            return Match(len(info.labels), input_dim, dropout, label_smoothing=label_smoothing, margin=margin)
        case "mrc":
            return MRC(input_dim, dropout)
        case "masked_lm":
            if embedding is None:
                raise WiringError(
                    f"task '{name}': a masked_lm head decodes with the embedding table; give make_head its shape."
                )
            return MaskedLM(input_dim, *embedding, dropout_prob=dropout)

"""Graph outputs -> answers: numpy in, dataclasses out, no state, no transport. Evaluation in training decodes with this very code."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from palm_serve.bundle.manifest import TaskInfo
from palm_serve.decoding.classify import ClassifyDecoder
from palm_serve.decoding.decoder_input import Item, rows_of
from palm_serve.decoding.match import MatchDecoder
from palm_serve.decoding.mrc import MrcDecoder
from palm_serve.decoding.multi_label import MultiLabelDecoder
from palm_serve.decoding.sequence_label import SequenceLabelDecoder
from palm_serve.errors import BundleError
from palm_serve.types import FloatArray, TaskAnswer

__all__ = ["Decoder", "DecoderTable", "Item", "make_decoder", "rows_of"]


class Decoder(Protocol):
    """Decodes one task for a whole batch."""

    def __call__(self, outputs: Mapping[str, FloatArray], items: Sequence[Item]) -> Sequence[TaskAnswer]:
        """One answer per item. `outputs` holds the graph outputs by full name (`intent.logits`), rows in the order of the items' rows."""
        ...


@dataclass(frozen=True)
class DecoderTable:
    """The decoders of a bundle's tasks, by task name."""

    by_task: Mapping[str, Decoder]

    @classmethod
    def of(cls, tasks: Mapping[str, TaskInfo], arrays: Mapping[str, FloatArray]) -> "DecoderTable":
        """Builds the decoder of every task; `arrays` are the contents of decode.npz."""
        return cls({name: make_decoder(name, task, arrays) for name, task in tasks.items()})


def make_decoder(name: str, task: TaskInfo, arrays: Mapping[str, FloatArray]) -> Decoder:
    """The decoder for one task of a manifest. Raises BundleError for a kind that this version cannot decode."""
    try:
        match task.kind:
            case "classify":
                return ClassifyDecoder(task, arrays)
            case "multi_label":
                return MultiLabelDecoder(task)
            case "sequence_label":
                return SequenceLabelDecoder(task, arrays)
            case "match":
                return MatchDecoder(task)
            case "mrc":
                return MrcDecoder(task)
    except KeyError as missing:
        raise BundleError(
            f"task '{name}': decode.npz lacks the array {missing}, which its manifest entry names"
        ) from None
    raise BundleError(f"task '{name}' is of kind '{task.kind}', which this version cannot decode")

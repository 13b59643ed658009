"""Base of the objects that hold what the server needs of each task kind."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeAlias, TypeVar, get_args, get_origin

from palm_serve.bundle.golden import GoldenAnswer
from palm_serve.bundle.manifest import KindFacts, TaskInfo
from palm_serve.decoding.decoder_input import Item
from palm_serve.types import FloatArray, TaskAnswer

AnswerType = TypeVar("AnswerType", bound=TaskAnswer)


class Decoder(Protocol):
    """Decodes one task for a whole batch."""

    def __call__(self, outputs: Mapping[str, FloatArray], items: Sequence[Item]) -> Sequence[TaskAnswer]:
        """Return one answer per item.

        Args:
            outputs: graph outputs by full name (`intent.logits`), rows in the order of the items' rows.
            items: texts of the batch with their encodings.
        """
        ...


OutputAxes: TypeAlias = tuple[int | None, ...]
"""Sizes of the axes of an output behind its rows. None: any size, such as the number of tokens."""


@dataclass(frozen=True, slots=True)
class OutputColumn:
    """One output of a task in the Open Inference Protocol: how it is read from an answer, and its type."""

    read: Callable[[Any], str | float]
    is_text: bool = False
    """True for BYTES, False for FP32."""


class ServedKind(Generic[AnswerType]):
    """One task kind as the server sees it. Subclasses are stateless: all state is in their decoders."""

    facts: ClassVar[KindFacts]
    ranks: ClassVar[bool] = False
    """True if an answer ranks the labels, as many as the request's `top_k`."""
    several_labels: ClassVar[bool] = False
    """True if any number of labels may apply to a text."""

    @property
    def name(self) -> str:
        """Name of the kind in a manifest."""
        return self.facts.name

    @property
    def answer_type(self) -> Any:
        """Class of the answers, as the subclass states it: `ServedKind[Match]`. None: it states none."""
        for parent in type(self).__mro__:
            for base in getattr(parent, "__orig_bases__", ()):
                if get_origin(base) is ServedKind and not isinstance(get_args(base)[0], TypeVar):
                    return get_args(base)[0]
        return None

    def decoder(self, task: TaskInfo, arrays: Mapping[str, FloatArray]) -> Decoder:
        """Build the decoder of one task. Raise KeyError for a missing array, BundleError for parts that do not fit."""
        raise NotImplementedError

    def golden(self, answer: AnswerType) -> GoldenAnswer:
        """Return the part of an answer that must be the same on every execution provider."""
        raise NotImplementedError

    def columns(self, task: TaskInfo) -> Mapping[str, OutputColumn]:
        """Return the outputs of the Open Inference Protocol by name, `json` and `fallback` aside."""
        raise NotImplementedError

    def output_axes(self, task: TaskInfo) -> Mapping[str, OutputAxes]:
        """Return the axes of the outputs that the decoder reads, behind the rows. Outputs without an entry are not checked."""
        return {}

    def label_names(self, task: TaskInfo) -> tuple[str, ...]:
        """Return the labels as answers name them."""
        return task.labels

"""The task kinds that the server decodes, by name. A new kind is added here, or with `register_served_kind`."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from palm_serve.bundle.golden import GoldenAnswer
from palm_serve.bundle.manifest import TaskInfo, register_kind, with_given
from palm_serve.decoding.classify import ClassifyDecoder, ServedClassify
from palm_serve.decoding.given import GivenDecoder
from palm_serve.decoding.match import ServedMatch
from palm_serve.decoding.mrc import ServedMrc
from palm_serve.decoding.multi_label import ServedMultiLabel
from palm_serve.decoding.sequence_label import SequenceLabelDecoder, ServedSequenceLabel
from palm_serve.decoding.served_kind import Decoder, ServedKind
from palm_serve.errors import BundleError, EngineError
from palm_serve.types import FloatArray, TaskAnswer

_BUILT_IN: tuple[ServedKind[Any], ...] = (
    ServedClassify(),
    ServedMultiLabel(),
    ServedSequenceLabel(),
    ServedMatch(),
    ServedMrc(),
)
_SERVED_KINDS = {kind.name: kind for kind in _BUILT_IN}


@dataclass(frozen=True)
class DecoderTable:
    """The decoders of a bundle's tasks, by task name, and the outputs of the graph that each reads."""

    by_task: Mapping[str, Decoder]
    outputs: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(
        cls,
        tasks: Mapping[str, TaskInfo],
        arrays: Mapping[str, FloatArray],
        names: Collection[str] | None = None,
    ) -> "DecoderTable":
        """Build the decoders of tasks.

        Args:
            tasks: manifest entries of all tasks of the model.
            arrays: contents of decode.npz.
            names: tasks to decode. None: all.

        Raises:
            BundleError: a task cannot be decoded.
        """
        by_task = {}
        outputs = {}
        for name in tasks if names is None else names:
            info = tasks[name]
            decoder = make_decoder(name, info, arrays)
            by_task[name] = _decode_given(name, decoder, tasks, arrays) if info.decode.given else decoder
            outputs[name] = tuple(chain.from_iterable(tasks[read].outputs for read in with_given([name], tasks)))
        return cls(by_task, outputs)


def register_served_kind(kind: ServedKind[Any]) -> None:
    """Add a task kind to those that manifests may name and the server can decode."""
    register_kind(kind.facts)
    _SERVED_KINDS[kind.name] = kind


def served_kind(name: str) -> ServedKind[Any]:
    """Return the served kind of this name. Raise KeyError for a kind that is trained only."""
    return _SERVED_KINDS[name]


def make_decoder(name: str, task: TaskInfo, arrays: Mapping[str, FloatArray]) -> Decoder:
    """Build the decoder of one task of a manifest.

    Args:
        name: task name, for messages.
        task: manifest entry of the task.
        arrays: contents of decode.npz.

    Raises:
        BundleError: this version cannot decode the kind, or an array is missing.
    """
    kind = _SERVED_KINDS.get(task.kind)
    if kind is None:
        raise BundleError(f"task '{name}' is of kind '{task.kind}', which this version cannot decode")
    if not task.outputs:
        raise BundleError(f"task '{name}' must have an output, got none; export again")
    try:
        return kind.decoder(task, arrays)
    except KeyError as missing:  # also where the manifest names no array
        raise BundleError(
            f"task '{name}': decode.npz lacks the array {missing}, which its manifest entry names"
        ) from None


def _decode_given(
    name: str, tagger: Decoder, tasks: Mapping[str, TaskInfo], arrays: Mapping[str, FloatArray]
) -> GivenDecoder:
    """Return the decoder of a task that is decoded given the class of another. Raise BundleError for parts that do not fit."""
    given_name = tasks[name].decode.given
    given_task = tasks.get(given_name)
    classifier = None if given_task is None else make_decoder(given_name, given_task, arrays)
    if (
        given_task is None
        or not isinstance(classifier, ClassifyDecoder)
        or not isinstance(tagger, SequenceLabelDecoder)
    ):
        kind = "none" if given_task is None else f"one of kind '{given_task.kind}'"
        raise BundleError(
            f"task '{name}' must be a sequence_label task given a classify task, got one of kind '{tasks[name].kind}' "
            f"given '{given_name}', {kind}; export again"
        )
    allowed = arrays.get(tasks[name].decode.arrays.get("given", ""))
    expected = (len(given_task.labels), len(tasks[name].labels))
    if allowed is None or allowed.shape != expected:
        shape = "none" if allowed is None else f"the shape {allowed.shape}"
        raise BundleError(
            f"task '{name}' must have an array 'given' of the classes of '{given_name}' and its tags, {expected}, "
            f"got {shape}; export again"
        )
    return GivenDecoder(tagger, classifier, given_task.labels, given_task.thresholds, allowed)


def check_outputs(name: str, task: TaskInfo, outputs: Mapping[str, FloatArray], rows: int) -> None:
    """Check that the outputs of a graph have the axes that the decoder of a task reads.

    Args:
        name: task name, for messages.
        task: manifest entry of the task.
        outputs: outputs of the graph by name.
        rows: rows of the batch.

    Raises:
        EngineError: an output has other axes, as with fewer labels than logits, or fewer rows.
    """
    for output, axes in served_kind(task.kind).output_axes(task).items():
        if not outputs[output].shape or len(outputs[output]) < rows:
            raise EngineError(
                f"the output '{output}' of task '{name}' must have {rows} rows for as many texts, got {list(outputs[output].shape)}"
            )
        actual = outputs[output].shape[1:]
        fits = len(actual) == len(axes)
        for size, expected_size in zip(actual, axes, strict=False):
            fits = fits and expected_size in (None, size)
        if not fits:
            expected = str([*axes]).replace("None", "any").strip("[]")
            raise EngineError(
                f"the output '{output}' of task '{name}' ({len(task.labels)} labels) must have the axes [rows, {expected}], "
                f"got {list(outputs[output].shape)}"
            )


def golden_answer(answer: TaskAnswer, task: TaskInfo) -> GoldenAnswer:
    """Return the part of a task's answer that must be the same on every execution provider."""
    return served_kind(task.kind).golden(answer)


def label_names(task: TaskInfo) -> tuple[str, ...]:
    """Return a task's labels as its answers name them."""
    return served_kind(task.kind).label_names(task)

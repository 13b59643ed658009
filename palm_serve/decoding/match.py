"""Decoding of `match` heads: logits -> the probability of a match."""

from collections.abc import Mapping, Sequence
from operator import attrgetter

from palm_serve.bundle.golden import GoldenAnswer
from palm_serve.bundle.manifest import KINDS, TaskInfo
from palm_serve.decoding.classify import LABEL_COLUMNS, sigmoid, softmax
from palm_serve.decoding.decoder_input import Item
from palm_serve.decoding.served_kind import OutputAxes, OutputColumn, ServedKind
from palm_serve.errors import BundleError
from palm_serve.types import FloatArray, Label, Match


class MatchDecoder:
    """`<task>.logits`, float32 [B, C]: softmax over the labels; or [B, 1] where the task has none (a ranker): sigmoid.

    Raises:
        BundleError: the match label is none of the labels.
    """

    def __init__(self, task: TaskInfo) -> None:
        self._output = task.outputs[0]
        self._labels = task.labels
        self._temperature = task.calibration.temperature
        if task.labels and task.decode.match_label not in task.labels:
            raise BundleError(
                f"'{self._output}': match label '{task.decode.match_label}' is none of the labels: {', '.join(task.labels)}"
            )
        self._match = task.labels.index(task.decode.match_label) if task.labels else 0

    def __call__(self, outputs: Mapping[str, FloatArray], items: Sequence[Item]) -> list[Match]:
        """Return label (None for a ranker) and score of each item."""
        logits = outputs[self._output] / self._temperature
        if not self._labels:
            return [Match(None, float(score)) for score in sigmoid(logits)[:, 0]]
        probabilities = softmax(logits)
        best = probabilities.argmax(axis=-1)
        matches = []
        for label, row in zip(best.tolist(), probabilities, strict=True):
            matches.append(Match(Label(self._labels[label], float(row[label])), float(row[self._match])))
        return matches


class ServedMatch(ServedKind[Match]):
    """A class of a pair of texts, or the score of a ranker."""

    facts = KINDS["match"]

    def decoder(self, task: TaskInfo, arrays: Mapping[str, FloatArray]) -> MatchDecoder:
        """Build the decoder."""
        return MatchDecoder(task)

    def golden(self, answer: Match) -> GoldenAnswer:
        """Return the label, or a ranker's score."""
        if answer.label is None:
            return GoldenAnswer(score=round(answer.score, 4))
        return GoldenAnswer(label=answer.label.name)

    def output_axes(self, task: TaskInfo) -> Mapping[str, OutputAxes]:
        """Return one column for each label; of a ranker, one."""
        return {task.outputs[0]: (len(task.labels) or 1,)}

    def columns(self, task: TaskInfo) -> Mapping[str, OutputColumn]:
        """Return label, confidence and score; of a ranker, which has no labels, the score only."""
        score = {"score": OutputColumn(attrgetter("score"))}
        return {**LABEL_COLUMNS, **score} if task.labels else score

"""Decoding of `match` heads: logits -> the probability of a match."""

from collections.abc import Mapping, Sequence

from palm_serve.bundle.manifest import TaskInfo
from palm_serve.decoding.classify import sigmoid, softmax
from palm_serve.decoding.decoder_input import Item
from palm_serve.errors import BundleError
from palm_serve.types import FloatArray, Label, Match


class MatchDecoder:
    """`<task>.logits`, float32 [B, C]: softmax over the labels; or [B, 1] where the task has none (a ranker): sigmoid.

    Raises BundleError when the match label is none of the labels.
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
        """Label (None for a ranker) and score of each item."""
        logits = outputs[self._output] / self._temperature
        if not self._labels:
            return [Match(None, float(score)) for score in sigmoid(logits)[:, 0]]
        probabilities = softmax(logits)
        best = probabilities.argmax(axis=-1)
        return [
            Match(Label(self._labels[label], float(row[label])), float(row[self._match]))
            for label, row in zip(best.tolist(), probabilities, strict=True)
        ]

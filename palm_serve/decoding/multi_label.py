"""Decoding of `multi_label` heads: logits -> all classes above their thresholds, and a ranking."""

from collections.abc import Mapping, Sequence

import numpy as np

from palm_serve.bundle.golden import GoldenAnswer
from palm_serve.bundle.manifest import KINDS, TaskInfo
from palm_serve.decoding.classify import LABEL_COLUMNS, sigmoid
from palm_serve.decoding.decoder_input import Item
from palm_serve.decoding.served_kind import OutputAxes, OutputColumn, ServedKind
from palm_serve.types import Classification, FloatArray, Label

DEFAULT_THRESHOLD = 0.5


class MultiLabelDecoder:
    """Sigmoid with temperature over `<task>.logits`, float32 [B, C]; a class applies from its threshold on (0.5 where the task names none)."""

    def __init__(self, task: TaskInfo) -> None:
        self._output = task.outputs[0]
        self._labels = task.labels
        self._temperature = task.calibration.temperature
        limits = task.thresholds.labels
        self._limits = np.array([limits.get(label, DEFAULT_THRESHOLD) for label in task.labels], dtype=np.float32)

    def __call__(self, outputs: Mapping[str, FloatArray], items: Sequence[Item]) -> list[Classification]:
        """Return labels and ranking of each item, sorted by confidence, ties by label order.

        `label` is the first of the ranking, applying or not.
        """
        probabilities = sigmoid(outputs[self._output] / self._temperature)
        order = np.argsort(-probabilities, axis=-1, kind="stable")
        applies = probabilities >= self._limits
        answers = []
        for row, item in enumerate(items):
            ranked = []
            labels = []
            for column in order[row]:
                label = Label(self._labels[column], float(probabilities[row, column]))
                ranked.append(label)
                if applies[row, column]:
                    labels.append(label)
            ranking = tuple(ranked[: item.top_k or None])
            answers.append(
                Classification(ranked[0], ranking, tuple(labels), out_of_scope_score=1.0 - ranked[0].confidence)
            )
        return answers


class ServedMultiLabel(ServedKind[Classification]):
    """Any number of classes of a text."""

    facts = KINDS["multi_label"]
    ranks = True
    several_labels = True

    def decoder(self, task: TaskInfo, arrays: Mapping[str, FloatArray]) -> MultiLabelDecoder:
        """Build the decoder."""
        return MultiLabelDecoder(task)

    def golden(self, answer: Classification) -> GoldenAnswer:
        """Return all classes that apply, in alphabetical order."""
        return GoldenAnswer(labels=tuple(sorted(label.name for label in answer.labels)))

    def output_axes(self, task: TaskInfo) -> Mapping[str, OutputAxes]:
        """Return one column for each label."""
        return {task.outputs[0]: (len(task.labels),)}

    def columns(self, task: TaskInfo) -> Mapping[str, OutputColumn]:
        """Return the first class of the ranking and its confidence."""
        return LABEL_COLUMNS

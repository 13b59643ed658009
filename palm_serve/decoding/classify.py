"""Decoding of `classify` heads: logits -> calibrated ranking."""

from collections.abc import Mapping, Sequence

import numpy as np

from palm_serve.bundle.manifest import TaskInfo
from palm_serve.decoding.item import Item
from palm_serve.types import Classification, FloatArray, Label


def softmax(logits: FloatArray) -> FloatArray:
    """Softmax over the last axis, float32."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True), dtype=np.float32)


def sigmoid(logits: FloatArray) -> FloatArray:
    """1 / (1 + exp(-x)) without overflow, float32."""
    small = np.exp(-np.abs(logits))
    return np.asarray(np.where(logits >= 0, 1.0, small) / (1.0 + small), dtype=np.float32)


class ClassifyDecoder:
    """Softmax with temperature over `<task>.logits`, float32 [B, C]."""

    def __init__(self, task: TaskInfo) -> None:
        self._output = task.outputs[0]
        self._labels = task.labels
        self._temperature = task.calibration.temperature

    def __call__(self, outputs: Mapping[str, FloatArray], items: Sequence[Item]) -> list[Classification]:
        """Ranking of each item, sorted by confidence, ties by label order."""
        probabilities = softmax(outputs[self._output] / self._temperature)
        order = np.argsort(-probabilities, axis=-1, kind="stable")
        answers = []
        for row, item in enumerate(items):
            chosen = order[row, : item.top_k or None]
            ranking = tuple(Label(self._labels[c], float(probabilities[row, c])) for c in chosen)
            answers.append(Classification(ranking[0], ranking, out_of_scope_score=1.0 - ranking[0].confidence))
        return answers

"""Decoding of `classify` heads: logits -> calibrated ranking."""

from collections.abc import Mapping, Sequence

import numpy as np

from palm_serve.bundle.manifest import TaskInfo
from palm_serve.decoding.item import Item
from palm_serve.errors import BundleError
from palm_serve.types import Classification, FloatArray, Label


def softmax(logits: FloatArray) -> FloatArray:
    """Softmax over the last axis, float32."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True), dtype=np.float32)


def sigmoid(logits: FloatArray) -> FloatArray:
    """1 / (1 + exp(-x)) without overflow, float32."""
    small = np.exp(-np.abs(logits))
    return np.asarray(np.where(logits >= 0, 1.0, small) / (1.0 + small), dtype=np.float32)


def out_of_scope_scores(method: str, logits: FloatArray) -> FloatArray:
    """How foreign each text is to all classes [B], from calibrated logits [B, C]; higher is more foreign.

    `energy`: minus log-sum-exp (Liu et al. 2020), unbounded. Otherwise one minus the greatest probability (Hendrycks and Gimpel 2017).
    """
    peak = logits.max(axis=-1)
    log_sum = peak + np.log(np.exp(logits - peak[..., None]).sum(axis=-1))
    return np.asarray(-log_sum if method == "energy" else 1.0 - np.exp(peak - log_sum))


class ClassifyDecoder:
    """Softmax with temperature over `<task>.logits`, float32 [B, C]. Raises BundleError for an out-of-scope score that this version does not know."""

    def __init__(self, task: TaskInfo) -> None:
        self._output = task.outputs[0]
        self._labels = task.labels
        self._temperature = task.calibration.temperature
        self._out_of_scope = task.calibration.out_of_scope
        if self._out_of_scope == "mahalanobis":
            raise BundleError(
                f"'{self._output}': this version has no out-of-scope score 'mahalanobis', only softmax and energy"
            )

    def __call__(self, outputs: Mapping[str, FloatArray], items: Sequence[Item]) -> list[Classification]:
        """Ranking of each item, sorted by confidence, ties by label order."""
        logits = outputs[self._output] / self._temperature
        probabilities = softmax(logits)
        foreign = out_of_scope_scores(self._out_of_scope, logits).tolist()
        order = np.argsort(-probabilities, axis=-1, kind="stable")
        answers = []
        for row, item in enumerate(items):
            chosen = order[row, : item.top_k or None]
            ranking = tuple(Label(self._labels[c], float(probabilities[row, c])) for c in chosen)
            answers.append(Classification(ranking[0], ranking, out_of_scope_score=foreign[row]))
        return answers

"""Temperature scaling of logits [N, C]: the loss that a temperature minimises, and how sure the answers then are."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from palm_serve.decoding.classify import sigmoid, softmax
from palm_serve.types import FloatArray

BoolArray = npt.NDArray[np.bool_]
_CERTAINTY = 1e-6
"""Probabilities are kept this far from 0 and 1 in a logarithm."""


class LogitCalibration(Protocol):
    """How the temperature of a kind's logits is judged. `truth` [N, C] marks the labels that apply."""

    def usable_rows(self, truth: BoolArray) -> BoolArray:
        """Mark the rows [N] that the temperature can be fitted on."""
        ...

    def loss(self, logits: FloatArray, truth: BoolArray) -> float:
        """Return the mean loss of logits that a temperature has divided."""
        ...

    def outcomes(self, logits: FloatArray, truth: BoolArray) -> tuple[FloatArray, BoolArray]:
        """Return the confidence of each answered label, and whether it is right."""
        ...


class SoftmaxCalibration:
    """One label of a text: cross-entropy, and the confidence of the best label."""

    def usable_rows(self, truth: BoolArray) -> BoolArray:
        """Mark the rows whose label training has seen."""
        return np.asarray(truth.any(axis=1))

    def loss(self, logits: FloatArray, truth: BoolArray) -> float:
        """Return the mean cross-entropy."""
        shifted = logits - logits.max(axis=1, keepdims=True)
        return float((np.log(np.exp(shifted).sum(axis=1)) - shifted[truth]).mean())

    def outcomes(self, logits: FloatArray, truth: BoolArray) -> tuple[FloatArray, BoolArray]:
        """Return the confidence of each best label, and whether it is right."""
        probabilities = softmax(logits)
        best = probabilities.argmax(axis=1)
        rows = np.arange(len(best))
        return probabilities[rows, best], truth[rows, best]


class SigmoidCalibration:
    """Any number of labels of a text: binary cross-entropy, and the confidence of each applying label."""

    def usable_rows(self, truth: BoolArray) -> BoolArray:
        """Mark all rows: no label is a label too."""
        return np.ones(len(truth), dtype=bool)

    def loss(self, logits: FloatArray, truth: BoolArray) -> float:
        """Return the mean binary cross-entropy."""
        return log_loss(sigmoid(logits), truth)

    def outcomes(self, logits: FloatArray, truth: BoolArray) -> tuple[FloatArray, BoolArray]:
        """Return the confidence of each label from 0.5 on, and whether it applies."""
        probabilities = sigmoid(logits)
        applies = probabilities >= 0.5
        return probabilities[applies], truth[applies]


def log_loss(confidence: npt.ArrayLike, right: npt.ArrayLike) -> float:
    """Return the mean negative log-likelihood of being right or wrong, for confidences [N] and outcomes [N]."""
    probability = np.clip(np.asarray(confidence, dtype=np.float64), _CERTAINTY, 1 - _CERTAINTY)
    hits = np.asarray(right, dtype=bool)
    return float(-np.where(hits, np.log(probability), np.log1p(-probability)).mean())

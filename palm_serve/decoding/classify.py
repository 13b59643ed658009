"""Decoding of `classify` heads: logits -> calibrated ranking."""

import math
from collections.abc import Mapping, Sequence
from operator import attrgetter, itemgetter

import numpy as np

from palm_serve.bundle.golden import GoldenAnswer
from palm_serve.bundle.manifest import KINDS, TaskInfo
from palm_serve.decoding.decoder_input import Item
from palm_serve.decoding.served_kind import OutputAxes, OutputColumn, ServedKind
from palm_serve.errors import BundleError
from palm_serve.types import Classification, FloatArray, Label

_FEW_LABELS = 128
"""Labels up to which one row is decoded without numpy. Its functions are slow to begin, above all after the engine ran."""


def softmax(logits: FloatArray) -> FloatArray:
    """Softmax over the last axis, float32."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True), dtype=np.float32)


def sigmoid(logits: FloatArray) -> FloatArray:
    """1 / (1 + exp(-x)) without overflow, float32."""
    small = np.exp(-np.abs(logits))
    return np.asarray(np.where(logits >= 0, 1.0, small) / (1.0 + small), dtype=np.float32)


def out_of_scope_scores(method: str, logits: FloatArray) -> FloatArray:
    """Return out-of-scope scores [B] of calibrated logits [B, C]. A higher score is further from all classes.

    `energy`: minus log-sum-exp (Liu et al. 2020), unbounded. Otherwise one minus the greatest probability (Hendrycks and Gimpel 2017).
    """
    peak = logits.max(axis=-1)
    log_sum = peak + np.log(np.exp(logits - peak[..., None]).sum(axis=-1))
    return np.asarray(-log_sum if method == "energy" else 1.0 - np.exp(peak - log_sum))


class Mahalanobis:
    """Squared Mahalanobis distance of features to the nearest class mean, under one covariance for all classes (Lee et al. 2018).

    In whitened coordinates that is a Euclidean distance, so it costs one product with the whitening and one with the means.

    Args:
        centre: of all features, [H]; distances are taken from there, since in fp32 they would drown in large coordinates.
        whitening: inverse of the covariance's Cholesky factor, [H, H].
        means: of the classes, centred and whitened, [C, H].

    Raises:
        BundleError: shapes that do not fit.
    """

    def __init__(self, centre: FloatArray, whitening: FloatArray, means: FloatArray) -> None:
        width = centre.size
        if whitening.shape != (width, width) or means.ndim != 2 or means.shape[1] != width:
            raise BundleError(
                f"out-of-scope statistics do not fit each other: centre {list(centre.shape)}, whitening {list(whitening.shape)}, means {list(means.shape)}"
            )
        self._centre = centre
        self._whitening = np.ascontiguousarray(whitening.T)
        self._means = np.ascontiguousarray(-2.0 * means.T)
        self._norms = np.square(means).sum(axis=1)

    def __call__(self, features: FloatArray) -> FloatArray:
        """Return the distances [B] of features [B, H]. A higher one is further from all classes."""
        white = (features - self._centre) @ self._whitening
        return np.asarray(np.square(white).sum(axis=1) + (white @ self._means + self._norms).min(axis=1))


class ClassifyDecoder:
    """Softmax with temperature over `<task>.logits`, float32 [B, C]; with the score `mahalanobis` also `<task>.features`, float32 [B, H].

    Raises:
        BundleError: that score's output or statistics are missing or do not fit.
    """

    def __init__(self, task: TaskInfo, arrays: Mapping[str, FloatArray]) -> None:
        self._output = task.outputs[0]
        self._labels = task.labels
        self._temperature = task.calibration.temperature
        self._out_of_scope = task.calibration.out_of_scope
        self._distance: Mahalanobis | None = None
        if self._out_of_scope == "mahalanobis":
            if len(task.outputs) < 2:
                raise BundleError(
                    f"'{self._output}': the out-of-scope score 'mahalanobis' needs the task's features as second output; export again"
                )
            names = task.decode.arrays
            self._distance = Mahalanobis(*(arrays[names[role]] for role in ("centre", "whitening", "means")))
            self._features = task.outputs[1]

    def _out_of_scope_scores(self, outputs: Mapping[str, FloatArray], logits: FloatArray) -> FloatArray:
        """Return the out-of-scope score of each row, [B]."""
        if self._distance is not None:
            return self._distance(outputs[self._features])
        return out_of_scope_scores(self._out_of_scope, logits)

    def __call__(self, outputs: Mapping[str, FloatArray], items: Sequence[Item]) -> list[Classification]:
        """Return the ranking of each item, sorted by confidence, ties by label order."""
        if len(items) == 1 and len(self._labels) <= _FEW_LABELS:
            logits_of_row: list[float] = outputs[self._output][0].tolist()
            if math.isfinite(sum(logits_of_row)):
                return [self._decode_row(logits_of_row, outputs, items[0])]
        logits = outputs[self._output] / self._temperature
        probabilities = softmax(logits)
        scores = self._out_of_scope_scores(outputs, logits).tolist()
        order = np.argsort(-probabilities, axis=-1, kind="stable")
        answers = []
        # Rows behind those of the items fill up a shape.
        rows = zip(items, order.tolist(), probabilities.tolist(), scores, strict=False)
        for item, columns, confidences, score in rows:
            ranking = tuple(Label(self._labels[c], confidences[c]) for c in columns[: item.top_k or None])
            answers.append(Classification(ranking[0], ranking, out_of_scope_score=score))
        return answers

    def _decode_row(self, logits: Sequence[float], outputs: Mapping[str, FloatArray], item: Item) -> Classification:
        """Decode one row as `__call__` does, up to the rounding of float32.

        Args:
            logits: of the row, finite.
            outputs: graph outputs by full name, of which the first row counts.
            item: its text.
        """
        temperature = self._temperature
        peak = max(logits)
        weights = [math.exp((logit - peak) / temperature) for logit in logits]
        total = sum(weights)
        ranked = sorted(enumerate(weights), key=itemgetter(1), reverse=True)
        ranking = tuple(Label(self._labels[c], weight / total) for c, weight in ranked[: item.top_k or None])
        if self._distance is not None:
            score = float(self._distance(outputs[self._features][:1])[0])
        elif self._out_of_scope == "energy":
            score = -(peak / temperature + math.log(total))
        else:
            score = 1.0 - 1.0 / total
        return Classification(ranking[0], ranking, out_of_scope_score=score)


LABEL_COLUMNS = {
    "label": OutputColumn(attrgetter("label.name"), is_text=True),
    "confidence": OutputColumn(attrgetter("label.confidence")),
}
"""Outputs of answers that have a best label."""


class ServedClassify(ServedKind[Classification]):
    """One class of a text."""

    facts = KINDS["classify"]
    ranks = True

    def decoder(self, task: TaskInfo, arrays: Mapping[str, FloatArray]) -> ClassifyDecoder:
        """Build the decoder; `arrays` hold the statistics of the out-of-scope score."""
        return ClassifyDecoder(task, arrays)

    def golden(self, answer: Classification) -> GoldenAnswer:
        """Return the best label."""
        return GoldenAnswer(label=answer.label.name)

    def output_axes(self, task: TaskInfo) -> Mapping[str, OutputAxes]:
        """Return one column for each label; features have any number."""
        axes: dict[str, OutputAxes] = dict.fromkeys(task.outputs[1:], (None,))
        axes[task.outputs[0]] = (len(task.labels),)
        return axes

    def columns(self, task: TaskInfo) -> Mapping[str, OutputColumn]:
        """Return the best label and its confidence."""
        return LABEL_COLUMNS

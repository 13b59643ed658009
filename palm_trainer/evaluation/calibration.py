"""Probabilities that mean what they say, and the score that tells text from outside the domain. Both are fitted on dev, after training.

Temperature scaling (Guo et al. 2017) divides a head's logits by one number: the order of the answers stays, and their probabilities come to match
how often they are right. An out-of-scope score is high for text that belongs to no class: one minus the greatest probability (Hendrycks and Gimpel
2017), the free energy of the logits (Liu et al. 2020), or a distance of the features (see out_of_scope.py). Its threshold is the score that a stated
share of in-scope dev examples exceeds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

from palm_serve.bundle.manifest import TaskInfo
from palm_serve.decoding import make_decoder
from palm_serve.decoding.classify import sigmoid, softmax
from palm_serve.types import FloatArray
from palm_trainer.data.example import Example
from palm_trainer.evaluation.evaluate import EvaluationSet, outcomes
from palm_trainer.evaluation.metrics import expected_calibration_error
from palm_trainer.evaluation.out_of_scope import Method, collect, with_threshold
from palm_trainer.evaluation.predictor import Predictor
from palm_trainer.model.multi_task import TrainedModel

FALSE_REJECTION = 0.05
"""Share of in-scope examples that the out-of-scope threshold rejects, unless the configuration says otherwise."""

_RANGE = (-2.0, 2.0)
"""Temperatures are sought between exp of these."""
_CERTAINTY = 1e-6
"""Probabilities are kept this far from 0 and 1 in a logarithm."""
_SPAN_EXAMPLES = 400
"""Examples on which the temperature of spans and answers is sought: each trial decodes them all."""


def calibrate(
    trained: TrainedModel,
    sets: Sequence[EvaluationSet],
    out_of_domain: Mapping[str, Sequence[Example]] | None = None,
    false_rejection: Mapping[str, float] | None = None,
    train: Mapping[str, Sequence[Example]] | None = None,
    scores: Mapping[str, Method] | None = None,
) -> TrainedModel:
    """The model with temperatures, expected calibration errors and out-of-scope thresholds in its tasks' manifest entries.

    Args:
        trained: after training; its weights and answers stay as they are, only confidences change.
        sets: dev. A task without dev examples keeps its temperature of 1.
        out_of_domain: text that belongs to no class, by task of kind `classify`; it chooses between the scores (see `out_of_scope`).
        false_rejection: by task: share of dev examples whose score exceeds the threshold. Tasks that it does not name get a threshold where they have
            text from outside the domain (`FALSE_REJECTION`), and otherwise none.
        train: training examples by task; without them there is no Mahalanobis score.
        scores: by task, the out-of-scope score to use whatever is best.
    """
    tasks = dict(trained.tasks)
    for one in sets:
        for task, field in one.fields.items():
            examples = [example for example in one.examples if field in example.fields]
            if examples and tasks[task].calibration.method == "none":
                tasks[task] = _calibrated(trained, task, field, examples)
    calibrated = replace(trained, tasks=tasks)
    foreign = out_of_domain or {}
    fields = {task: field for one in sets for task, field in one.fields.items()}
    for task, field in fields.items():
        rejected = (false_rejection or {}).get(task, FALSE_REJECTION if task in foreign else None)
        info = calibrated.tasks[task]
        labelled = [example for one in sets if task in one.fields for example in one.examples]
        inside = [example for example in labelled if example.fields.get(field) in info.labels]
        if info.kind == "classify" and inside and rejected is not None and not info.calibration.out_of_scope:
            calibrated = with_threshold(
                calibrated,
                task,
                field,
                inside,
                foreign.get(task, ()),
                (train or {}).get(task, ()),
                rejected,
                (scores or {}).get(task),
            )
    return calibrated


def fit_temperature(loss: Callable[[float], float]) -> float:
    """The temperature with the least loss, by bounded search over its logarithm."""
    found = minimize_scalar(
        lambda log: loss(float(np.exp(log))), bounds=_RANGE, method="bounded", options={"xatol": 1e-3}
    )
    return float(np.exp(found.x))


def log_loss(confidence: npt.ArrayLike, right: npt.ArrayLike) -> float:
    """Mean negative log-likelihood of being right or wrong, for confidences [N] and outcomes [N]."""
    share = np.clip(np.asarray(confidence, dtype=np.float64), _CERTAINTY, 1 - _CERTAINTY)
    hits = np.asarray(right, dtype=bool)
    return float(-np.where(hits, np.log(share), np.log1p(-share)).mean())


def _calibrated(trained: TrainedModel, task: str, field: str, examples: Sequence[Example]) -> TaskInfo:
    """The task with its temperature and what is left of its calibration error."""
    info = trained.tasks[task]
    if info.kind in ("classify", "multi_label") or (info.kind == "match" and info.labels):
        logits = collect(trained, task, examples)[0]
        truth = _truth(info, field, examples)
        known = truth.any(axis=1) if info.kind != "multi_label" else np.ones(len(truth), dtype=bool)
        if not known.any():
            return info
        temperature = fit_temperature(lambda t: _class_loss(info.kind, logits[known] / t, truth[known]))
        confidence, right = _class_outcomes(info.kind, logits / temperature, truth)
    elif info.kind in ("sequence_label", "mrc"):
        batches = list(Predictor(trained).outputs(examples[:_SPAN_EXAMPLES], [task], info.windows))

        def told_at(t: float) -> tuple[list[float], list[bool]]:
            decoder = make_decoder(task, _at(info, t), trained.arrays)
            told = [
                (examples[i], a)
                for chosen, items, out in batches
                for i, a in zip(chosen, decoder(out, items), strict=True)
            ]
            pairs = [pair for example, answer in told for pair in outcomes(info.kind, example, field, answer)]
            return [c for c, _ in pairs], [hit for _, hit in pairs]

        if not told_at(1.0)[0]:
            return info
        temperature = fit_temperature(lambda t: log_loss(*told_at(t)))
        confidence, right = (np.asarray(values) for values in told_at(temperature))
    else:
        return info
    error = expected_calibration_error(zip(confidence.tolist(), right.tolist(), strict=True))
    return _at(info, temperature, method="temperature", ece=error)


def _at(info: TaskInfo, temperature: float, **more: Any) -> TaskInfo:
    return info.model_copy(
        update={"calibration": info.calibration.model_copy(update={"temperature": temperature, **more})}
    )


def _truth(info: TaskInfo, field: str, examples: Sequence[Example]) -> npt.NDArray[np.bool_]:
    """Which labels apply, [N, C]; none for a label that training never saw."""
    index = {label: i for i, label in enumerate(info.labels)}
    truth = np.zeros((len(examples), len(index)), dtype=np.bool_)
    for row, example in enumerate(examples):
        value = example.fields[field]
        for label in (value,) if isinstance(value, str) else value:
            if isinstance(label, str) and label in index:
                truth[row, index[label]] = True
    return truth


def _class_loss(kind: str, logits: FloatArray, truth: npt.NDArray[np.bool_]) -> float:
    if kind == "multi_label":
        return log_loss(sigmoid(logits), truth)
    shifted = logits - logits.max(axis=1, keepdims=True)
    return float((np.log(np.exp(shifted).sum(axis=1)) - shifted[truth]).mean())


def _class_outcomes(
    kind: str, logits: FloatArray, truth: npt.NDArray[np.bool_]
) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """Confidence of the top label and whether it is right; of each applying label, where several may apply."""
    if kind == "multi_label":
        told = sigmoid(logits)
        applies = told >= 0.5
        return told[applies], truth[applies]
    probabilities = softmax(logits)
    best = probabilities.argmax(axis=1)
    rows = np.arange(len(best))
    return probabilities[rows, best], truth[rows, best]

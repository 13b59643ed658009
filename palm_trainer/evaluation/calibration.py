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
from palm_serve.decoding import DecoderTable
from palm_trainer.data.example import Example
from palm_trainer.evaluation.evaluate import EvaluationSet
from palm_trainer.evaluation.out_of_scope import Method, collect, with_threshold
from palm_trainer.evaluation.predictor import Predictor
from palm_trainer.model.multi_task import TrainedModel
from palm_trainer.tasks import task_kind
from palm_trainer.tasks.logit_calibration import LogitCalibration, log_loss
from palm_trainer.tasks.metrics import expected_calibration_error

FALSE_REJECTION = 0.05
"""Share of in-scope examples that the out-of-scope threshold rejects, unless the configuration says otherwise."""

_RANGE = (-2.0, 2.0)
"""Temperatures are sought between exp of these."""
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
    """Return the model with temperatures, calibration errors and out-of-scope thresholds in its manifest entries.

    Args:
        trained: after training; its weights and answers stay as they are, only confidences change.
        sets: dev. A task without dev examples keeps its temperature of 1.
        out_of_domain: text that belongs to no class, by task of kind `classify`; it chooses between the scores (see `out_of_scope`).
        false_rejection: by task: share of dev examples whose score exceeds the threshold. Tasks that it does not name get a threshold where they have
            text from outside the domain (`FALSE_REJECTION`), and otherwise none.
        train: training examples by task; without them there is no Mahalanobis score.
        scores: by task, the out-of-scope score to use whatever is best.
    """
    examples_by_task: dict[str, list[Example]] = {}
    fields = {}
    for evaluation_set in sets:
        for task, field in evaluation_set.fields.items():
            fields[task] = field
            examples_by_task.setdefault(task, []).extend(evaluation_set.examples)
    calibrated = _with_temperatures(trained, sets, conditional=False)
    outside = out_of_domain or {}
    for task, field in fields.items():
        rejected = (false_rejection or {}).get(task, FALSE_REJECTION if task in outside else None)
        info = calibrated.tasks[task]
        inside = []
        for example in examples_by_task[task]:
            if example.fields.get(field) in info.labels:
                inside.append(example)
        detects = task_kind(info.kind).detects_out_of_scope and not info.calibration.out_of_scope
        if detects and inside and rejected is not None:
            calibrated = with_threshold(
                calibrated,
                task,
                field,
                inside,
                outside.get(task, ()),
                (train or {}).get(task, ()),
                rejected,
                (scores or {}).get(task),
            )
    # The last, since the threshold of a class decides which tags are possible.
    return _with_temperatures(calibrated, sets, conditional=True)


def _with_temperatures(trained: TrainedModel, sets: Sequence[EvaluationSet], *, conditional: bool) -> TrainedModel:
    """Return the model with the temperatures of the tasks that are decoded given another, or of all others."""
    tasks = dict(trained.tasks)
    for evaluation_set in sets:
        for task, field in evaluation_set.fields.items():
            info = tasks[task]
            labelled = [example for example in evaluation_set.examples if field in example.fields]
            if labelled and info.calibration.method == "none" and bool(info.decode.given) == conditional:
                tasks[task] = _calibrated(trained, task, field, labelled)
    return replace(trained, tasks=tasks)


def fit_temperature(loss: Callable[[float], float]) -> float:
    """Return the temperature with the least loss, by bounded search over its logarithm."""
    result = minimize_scalar(
        lambda log: loss(float(np.exp(log))), bounds=_RANGE, method="bounded", options={"xatol": 1e-3}
    )
    return float(np.exp(result.x))


def _calibrated(trained: TrainedModel, task: str, field: str, examples: Sequence[Example]) -> TaskInfo:
    """Return the task with its temperature and what is left of its calibration error."""
    info = trained.tasks[task]
    kind = task_kind(info.kind)
    logit_calibration = kind.logit_calibration(info)
    if logit_calibration is not None:
        return _with_logit_temperature(trained, task, field, examples, logit_calibration)
    return _with_answer_temperature(trained, task, field, examples) if kind.calibrates_answers else info


def _with_logit_temperature(
    trained: TrainedModel,
    task: str,
    field: str,
    examples: Sequence[Example],
    calibration: LogitCalibration,
) -> TaskInfo:
    """Fit the temperature on the logits themselves."""
    info = trained.tasks[task]
    logits = collect(trained, task, examples)[0]
    truth = _truth(info, field, examples)
    usable = calibration.usable_rows(truth)
    if not usable.any():
        return info
    temperature = fit_temperature(lambda t: calibration.loss(logits[usable] / t, truth[usable]))
    confidence, right = calibration.outcomes(logits / temperature, truth)
    error = expected_calibration_error(zip(confidence.tolist(), right.tolist(), strict=True))
    return _at(info, temperature, method="temperature", ece=error)


def _with_answer_temperature(trained: TrainedModel, task: str, field: str, examples: Sequence[Example]) -> TaskInfo:
    """Fit the temperature on decoded answers, for kinds whose confidence is no function of one row of logits."""
    info = trained.tasks[task]
    kind = task_kind(info.kind)
    batches = list(Predictor(trained).outputs(examples[:_SPAN_EXAMPLES], [task], info.layout))
    arrays = trained.arrays

    def points_at(temperature: float) -> list[tuple[float, bool]]:
        infos = {**trained.tasks, task: _at(info, temperature)}
        decoder = DecoderTable.of(infos, arrays, [task]).by_task[task]
        points = []
        for positions, items, outputs in batches:
            for position, answer in zip(positions, decoder(outputs, items), strict=True):
                points += kind.outcomes(examples[position], field, answer)
        return points

    def loss(temperature: float) -> float:
        points = points_at(temperature)
        return log_loss([confidence for confidence, _ in points], [right for _, right in points])

    if not points_at(1.0):
        return info
    temperature = fit_temperature(loss)
    points = []
    for confidence, right in points_at(temperature):
        points.append((float(confidence), bool(right)))
    return _at(info, temperature, method="temperature", ece=expected_calibration_error(points))


def _at(info: TaskInfo, temperature: float, **settings: Any) -> TaskInfo:
    return info.model_copy(
        update={"calibration": info.calibration.model_copy(update={"temperature": temperature, **settings})}
    )


def _truth(info: TaskInfo, field: str, examples: Sequence[Example]) -> npt.NDArray[np.bool_]:
    """Mark the labels that apply, [N, C]; none for a label that training never saw."""
    index = {label: i for i, label in enumerate(info.labels)}
    truth = np.zeros((len(examples), len(index)), dtype=np.bool_)
    for row, example in enumerate(examples):
        value = example.fields[field]
        for label in (value,) if isinstance(value, str) else value:
            if isinstance(label, str) and label in index:
                truth[row, index[label]] = True
    return truth

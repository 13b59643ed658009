"""Which text belongs to no class: scores for it, the choice between them, and how well the chosen one tells. See `calibration`, which fits all this.

Lee et al. (2018) model the features that a head reads as Gaussians, one a class, with one covariance: the score is the squared Mahalanobis distance to
the nearest class mean. Unlike what is computed from logits it sees directions that no class is told apart by (Podolskiy et al. 2021).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from palm_serve.bundle.manifest import TaskInfo
from palm_serve.decoding.classify import Mahalanobis, out_of_scope_scores
from palm_serve.types import Classification, FloatArray
from palm_trainer.data.example import Example
from palm_trainer.evaluation.evaluate import Answering, EvaluationSet
from palm_trainer.evaluation.predictor import Predictor
from palm_trainer.model.heads.classify import ClassifyHead
from palm_trainer.model.multi_task import MultiTaskModel, TrainedModel

Method = Literal["softmax", "energy", "mahalanobis"]

DEFAULTS: tuple[Method, ...] = ("mahalanobis", "energy", "softmax")
"""The scores, the one to take where no text from outside the domain chooses first."""
SHRINKAGE = 0.01
"""Share of the covariance that is taken from a multiple of the identity: features have directions in which training text does not vary at all."""
FIT_EXAMPLES = 20_000
"""Training examples, at most, whose features the statistics are fitted on."""
_MARGIN = 1e-3
"""Room above the greatest score of all, in parts of it."""


class Statistics(NamedTuple):
    """Arrays of the Mahalanobis score, float32: `centre` [H], `whitening` [H, H], `means` [C, H]."""

    centre: FloatArray
    whitening: FloatArray
    means: FloatArray


def fit_statistics(features: FloatArray, classes: npt.NDArray[np.int64]) -> Statistics:
    """Return centre, inverse Cholesky factor of the covariance within classes, and the whitened class means.

    Args:
        features: [N, H].
        classes: of each row, int64 [N]; each of 0 to C - 1 occurs.
    """
    values = features.astype(np.float64)
    centre = values.mean(axis=0)
    values -= centre
    means = np.stack([values[classes == c].mean(axis=0) for c in range(classes.max() + 1)])
    within = values - means[classes]
    covariance = within.T @ within / len(values)
    level = float(np.trace(covariance)) / len(centre) or 1.0
    covariance = (1 - SHRINKAGE) * covariance + SHRINKAGE * level * np.eye(len(centre))
    whitening = np.linalg.inv(np.linalg.cholesky(covariance))
    return Statistics(centre.astype(np.float32), whitening.astype(np.float32), (means @ whitening.T).astype(np.float32))


def threshold_at(scores: npt.ArrayLike, rejected: float) -> float:
    """Return a limit just above the least score that at most the share `rejected` of the scores exceed.

    It lies in the middle of that score and the next one. A text whose score is the limit would be accepted or refused by
    the last bit of a computation, in which engines differ.
    """
    ordered = np.sort(np.asarray(scores, dtype=np.float64))
    accepted = ordered[max(0, int(np.ceil(len(ordered) * (1 - rejected))) - 1)]
    above = ordered[ordered > accepted]
    following = above[0] if len(above) else accepted + _MARGIN * max(1.0, abs(accepted))
    return float((accepted + following) / 2)


def auroc(inside: npt.ArrayLike, outside: npt.ArrayLike) -> float:
    """Return the probability that a score of `outside` exceeds one of `inside`, ties counted as half."""
    low, high = np.sort(np.asarray(inside)), np.asarray(outside)
    below, up_to = np.searchsorted(low, high, "left"), np.searchsorted(low, high, "right")
    return float((below + up_to).mean() / (2 * len(low)))


def with_threshold(
    trained: TrainedModel,
    task: str,
    field: str,
    inside: Sequence[Example],
    outside: Sequence[Example],
    train: Sequence[Example],
    rejected: float,
    method: Method | None = None,
) -> TrainedModel:
    """Return the model with an out-of-scope score for a task, and its threshold.

    Args:
        trained: with the task's temperature.
        task: task name.
        field: its field of the examples.
        inside: labelled dev text.
        outside: text that belongs to no class. The score with the greatest area under the ROC curve is taken.
        train: labelled training text, for the statistics of the Mahalanobis score. Without it, that score is left out.
        rejected: share of `inside` whose score exceeds the threshold.
        method: the score to take. None: by `outside`, and without such text the first of DEFAULTS.
    """
    with_features = trained
    rows = _rows_to_fit(trained.tasks[task], field, train)
    if rows and method in (None, "mahalanobis"):
        with_features = _with_features(trained, task, rows)
    inside_scores = _scores(with_features, task, inside)
    outside_scores = _scores(with_features, task, outside)
    method = method or _best(inside_scores, outside_scores)
    scored = with_features if method == "mahalanobis" else trained
    info = scored.tasks[task]
    limit = threshold_at(inside_scores[method], rejected)
    info = info.model_copy(
        update={
            "calibration": info.calibration.model_copy(update={"out_of_scope": method}),
            "thresholds": info.thresholds.model_copy(update={"out_of_scope": limit}),
        }
    )
    return replace(scored, tasks={**scored.tasks, task: info})


def _best(inside: Mapping[Method, FloatArray], outside: Mapping[Method, FloatArray]) -> Method:
    """Return the score that separates the two best, or the first of DEFAULTS where one of them is empty."""
    methods = [method for method in DEFAULTS if method in inside]
    if not len(outside[methods[0]]):
        return methods[0]
    return max(methods, key=lambda method: auroc(inside[method], outside[method]))


def _rows_to_fit(info: TaskInfo, field: str, train: Sequence[Example]) -> list[tuple[Example, int]]:
    """Return training examples with the number of their class, evenly chosen where there are many.

    There are none unless each class has one.
    """
    by_class: list[list[Example]] = [[] for _ in info.labels]
    index = {label: number for number, label in enumerate(info.labels)}
    for example in train:
        if (label := example.fields.get(field)) in index:
            by_class[index[str(label)]].append(example)
    if not all(by_class):
        return []
    limit = max(1, FIT_EXAMPLES // len(by_class))
    rows = []
    for number, examples in enumerate(by_class):
        step = -(-len(examples) // limit) or 1
        for example in examples[::step]:
            rows.append((example, number))
    return rows


def _with_features(trained: TrainedModel, task: str, rows: Sequence[tuple[Example, int]]) -> TrainedModel:
    """Return the model whose head also returns its features, with statistics fitted on these rows."""
    width, count = trained.model.backbone.hidden_size, len(trained.tasks[task].labels)
    zeros = Statistics(
        np.zeros(width, np.float32), np.eye(width, dtype=np.float32), np.zeros((count, width), np.float32)
    )
    blank = _with_statistics(trained, task, zeros)
    features = collect(blank, task, [example for example, _ in rows])[1]
    return _with_statistics(trained, task, fit_statistics(features, np.array([number for _, number in rows])))


def _with_statistics(trained: TrainedModel, task: str, statistics: Statistics) -> TrainedModel:
    head = trained.model.head(task)
    assert isinstance(head, ClassifyHead)
    heads = {name: trained.model.head(name) for name in trained.model.heads}
    heads[task] = head.with_statistics(statistics._asdict())
    model = MultiTaskModel(trained.model.backbone, heads).train(trained.model.training)
    info = trained.tasks[task]
    arrays = {role: f"{task}.{role}" for role in Statistics._fields}
    info = info.model_copy(
        update={
            "outputs": model.output_names((task,)),
            "decode": info.decode.model_copy(update={"arrays": arrays}),
            "calibration": info.calibration.model_copy(update={"out_of_scope": "mahalanobis"}),
        }
    )
    return replace(trained, model=model, tasks={**trained.tasks, task: info})


def collect(trained: TrainedModel, task: str, examples: Sequence[Example]) -> tuple[FloatArray, ...]:
    """Return the task's outputs for each example, in the order given: [N, C], ...

    Args:
        trained: the model.
        task: task name.
        examples: texts, or texts with their pairs.
    """
    names = trained.tasks[task].outputs
    rows: dict[str, dict[int, FloatArray]] = {name: {} for name in names}
    for positions, _, outputs in Predictor(trained).outputs(examples, [task], trained.tasks[task].layout):
        for name in names:
            rows[name].update(zip(positions, outputs[name], strict=True))
    return tuple(_stack(rows[name], len(examples)) for name in names)


def _stack(rows: Mapping[int, FloatArray], count: int) -> FloatArray:
    """Stack rows by their position."""
    return np.stack([rows[i] for i in range(count)])


def _scores(trained: TrainedModel, task: str, examples: Sequence[Example]) -> dict[Method, FloatArray]:
    """Return every score that the model has, [N] each."""
    if not examples:
        return {method: np.empty(0, np.float32) for method in DEFAULTS}
    logits, *features = collect(trained, task, examples)
    logits = logits / trained.tasks[task].calibration.temperature
    scores: dict[Method, FloatArray] = {
        "energy": out_of_scope_scores("energy", logits),
        "softmax": out_of_scope_scores("softmax", logits),
    }
    if features:
        arrays, names = trained.arrays, trained.tasks[task].decode.arrays
        statistics = [arrays[names[role]] for role in Statistics._fields]
        scores["mahalanobis"] = Mahalanobis(*statistics)(features[0])
    return scores


def rejections(
    predictor: Answering,
    tasks: Mapping[str, TaskInfo],
    sets: Sequence[EvaluationSet],
    out_of_scope: Mapping[str, Sequence[Example]],
) -> dict[str, dict[str, float]]:
    """Return how well the tasks' thresholds reject out-of-scope text, fractions by task and name.

    `in_scope_accuracy`: share of labelled text that is accepted and right. `false_rejection`: share of it that is
    rejected. `out_of_scope_recall`: share of the out-of-scope text that is rejected. `out_of_scope_auroc`: how well the
    score ranks the two, whatever the threshold.

    Args:
        predictor: the model.
        tasks: its manifest entries. A task without a threshold has no figures.
        sets: labelled examples.
        out_of_scope: text that belongs to no class, by task.
    """
    figures = {}
    for task, texts in out_of_scope.items():
        limit = tasks[task].thresholds.out_of_scope
        labelled = _labelled_answers(predictor, task, sets)
        if limit is None or not labelled or not texts:
            continue
        inside = _answer_scores(answer for _, answer in labelled)
        outside = _answer_scores(answers[task] for answers in predictor.answers(texts, (task,)))
        right = np.array([_is_right(answer, gold) for gold, answer in labelled])
        figures[task] = {
            "in_scope_accuracy": float((right & (inside <= limit)).mean()),
            "false_rejection": float((inside > limit).mean()),
            "out_of_scope_recall": float((outside > limit).mean()),
            "out_of_scope_auroc": auroc(inside, outside),
        }
    return figures


def _labelled_answers(predictor: Answering, task: str, sets: Sequence[EvaluationSet]) -> list[tuple[object, object]]:
    """Return gold label and answer of each example with a label of the task."""
    labelled: list[tuple[object, object]] = []
    for evaluation_set in sets:
        field = evaluation_set.fields.get(task)
        if field is None:
            continue
        examples = evaluation_set.examples
        all_answers = predictor.answers(examples, tuple(evaluation_set.fields))
        for example, answers in zip(examples, all_answers, strict=True):
            if field in example.fields:
                labelled.append((example.fields[field], answers[task]))
    return labelled


def _is_right(answer: object, gold: object) -> bool:
    """Return True if the answer is a class, and the right one."""
    return isinstance(answer, Classification) and answer.label.name == gold


def _answer_scores(answers: Iterable[object]) -> npt.NDArray[np.float64]:
    """Return the out-of-scope scores of answers."""
    scores = []
    for answer in answers:
        if isinstance(answer, Classification):
            scores.append(answer.out_of_scope_score)
    return np.array(scores)

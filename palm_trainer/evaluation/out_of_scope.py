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


class Statistics(NamedTuple):
    """What the Mahalanobis score needs, float32: `centre` [H], `whitening` [H, H], `means` [C, H]."""

    centre: FloatArray
    whitening: FloatArray
    means: FloatArray


def fit_statistics(features: FloatArray, classes: npt.NDArray[np.int64]) -> Statistics:
    """Centre, inverse Cholesky factor of the covariance within classes, and the whitened class means.

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
    return Statistics(*(array.astype(np.float32) for array in (centre, whitening, means @ whitening.T)))


def threshold_at(scores: npt.ArrayLike, rejected: float) -> float:
    """The least score among `scores` that at most the share `rejected` of them exceed."""
    ordered = np.sort(np.asarray(scores, dtype=np.float64))
    return float(ordered[max(0, int(np.ceil(len(ordered) * (1 - rejected))) - 1)])


def auroc(inside: npt.ArrayLike, outside: npt.ArrayLike) -> float:
    """Probability that a score of `outside` exceeds one of `inside`, ties counted as half."""
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
    wanted: Method | None = None,
) -> TrainedModel:
    """The model with an out-of-scope score for a `classify` task, and its threshold.

    Args:
        trained: with the task's temperature.
        task, field: which, and its field of the examples.
        inside: labelled dev text.
        outside: text that belongs to no class; the score with the greatest area under the ROC curve is taken.
        train: labelled training text, for the statistics of the Mahalanobis score; without, that one is not looked at.
        rejected: share of `inside` whose score exceeds the threshold.
        wanted: the score to take. None: by `outside`, and without such text the first of DEFAULTS.
    """
    shown, rows = trained, _rows_to_fit(trained.tasks[task], field, train)
    if rows and wanted in (None, "mahalanobis"):
        shown = _with_features(trained, task, rows)
    told = {where: _scores(shown, task, examples) for where, examples in (("in", inside), ("out", outside))}
    chosen = wanted or _best(told["in"], told["out"])
    kept = shown if chosen == "mahalanobis" else trained
    info = kept.tasks[task]
    limit = threshold_at(told["in"][chosen], rejected)
    info = info.model_copy(
        update={
            "calibration": info.calibration.model_copy(update={"out_of_scope": chosen}),
            "thresholds": info.thresholds.model_copy(update={"out_of_scope": limit}),
        }
    )
    return replace(kept, tasks={**kept.tasks, task: info})


def _best(inside: Mapping[Method, FloatArray], outside: Mapping[Method, FloatArray]) -> Method:
    """The score that tells the two apart best, or the first of DEFAULTS where there is nothing to tell apart."""
    known = [method for method in DEFAULTS if method in inside]
    if not len(outside[known[0]]):
        return known[0]
    return max(known, key=lambda method: auroc(inside[method], outside[method]))


def _rows_to_fit(info: TaskInfo, field: str, train: Sequence[Example]) -> list[tuple[Example, int]]:
    """Training examples with the number of their class, evenly chosen where there are many; none unless each class has one."""
    by_class: list[list[Example]] = [[] for _ in info.labels]
    index = {label: number for number, label in enumerate(info.labels)}
    for example in train:
        if (label := example.fields.get(field)) in index:
            by_class[index[str(label)]].append(example)
    limit = max(1, FIT_EXAMPLES // len(by_class))
    chosen = [(e, c) for c, own in enumerate(by_class) for e in own[:: -(-len(own) // limit) or 1]]
    return chosen if all(by_class) else []


def _with_features(trained: TrainedModel, task: str, rows: Sequence[tuple[Example, int]]) -> TrainedModel:
    """The model whose head for the task tells its features, with statistics fitted on these rows."""
    width, count = trained.model.backbone.hidden_size, len(trained.tasks[task].labels)
    nothing = Statistics(
        np.zeros(width, np.float32), np.eye(width, dtype=np.float32), np.zeros((count, width), np.float32)
    )
    blank = _with_statistics(trained, task, nothing)
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
    """The task's outputs for each example, in the order given: [N, C], ..."""
    names = trained.tasks[task].outputs
    found: dict[int, tuple[FloatArray, ...]] = {}
    for chosen, _, outputs in Predictor(trained).outputs(examples, [task]):
        found.update(zip(chosen, zip(*(outputs[name] for name in names), strict=True), strict=True))
    return tuple(np.stack([found[i][k] for i in range(len(examples))]) for k in range(len(names)))


def _scores(trained: TrainedModel, task: str, examples: Sequence[Example]) -> dict[Method, FloatArray]:
    """Every score that the model can give, [N] each."""
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
        scores["mahalanobis"] = Mahalanobis(*(arrays[names[role]] for role in Statistics._fields))(features[0])
    return scores


def rejections(
    predictor: Answering,
    tasks: Mapping[str, TaskInfo],
    sets: Sequence[EvaluationSet],
    foreign: Mapping[str, Sequence[Example]],
) -> dict[str, dict[str, float]]:
    """How well the tasks' thresholds tell what is out of scope, fractions by task and name.

    `in_scope_accuracy`: of labelled text, what is accepted and right; `false_rejection`: what is rejected; `out_of_scope_recall`: of text that belongs to no
    class, what is rejected; `out_of_scope_auroc`: how well the score ranks the two, whatever the threshold.

    Args:
        predictor: the model.
        tasks: its manifest entries. A task without a threshold has no figures.
        sets: labelled examples.
        foreign: text that belongs to no class, by task.
    """
    found = {}
    for task, outside in foreign.items():
        limit = tasks[task].thresholds.out_of_scope
        pairs = [
            (example.fields[one.fields[task]], answers[task])
            for one in sets
            if task in one.fields
            for example, answers in zip(one.examples, predictor.answers(one.examples, tuple(one.fields)), strict=True)
            if one.fields[task] in example.fields
        ]
        if limit is None or not pairs or not outside:
            continue
        inside = _told(answer for _, answer in pairs)
        out = _told(answers[task] for answers in predictor.answers(outside, (task,)))
        right = np.array([isinstance(a, Classification) and a.label.name == gold for gold, a in pairs])
        found[task] = {
            "in_scope_accuracy": float((right & (inside <= limit)).mean()),
            "false_rejection": float((inside > limit).mean()),
            "out_of_scope_recall": float((out > limit).mean()),
            "out_of_scope_auroc": auroc(inside, out),
        }
    return found


def _told(answers: Iterable[object]) -> npt.NDArray[np.float64]:
    """Out-of-scope scores of answers."""
    return np.array([answer.out_of_scope_score for answer in answers if isinstance(answer, Classification)])

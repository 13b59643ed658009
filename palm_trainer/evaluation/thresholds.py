"""Limits of decoding that are chosen on dev, at the end of training: from where on a class applies, and when a passage holds no answer.

They are looked for with the server's own decoding, and after temperatures, which change what a limit means.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from palm_serve.bundle.manifest import TaskInfo
from palm_serve.types import Answer, Classification
from palm_trainer.data.example import Example
from palm_trainer.evaluation.evaluate import EvaluationSet, comparable
from palm_trainer.evaluation.metrics import reading_scores, set_scores
from palm_trainer.evaluation.predictor import Predictor
from palm_trainer.model.multi_task import TrainedModel

_NEVER_NOTHING = 1e9
"""A null threshold that no score exceeds."""


def tune_thresholds(
    trained: TrainedModel, sets: Sequence[EvaluationSet], tasks: Collection[str]
) -> tuple[TrainedModel, dict[str, float]]:
    """The model with the limits of some tasks that are best on dev, and these limits by task.

    One limit for all classes of a `multi_label` task: the one with most sets that are exactly right, of several the one with the greatest
    micro-averaged F1. For `mrc` the null threshold with the greatest F1, where dev holds questions with and without an answer.

    Args:
        trained: after training.
        sets: dev.
        tasks: names of tasks of these kinds; others are left as they are.
    """
    found: dict[str, float] = {}
    for task in tasks:
        rows = [(e, one.fields[task]) for one in sets if task in one.fields for e in one.examples]
        rows = [(e, field) for e, field in rows if field in e.fields]
        if not rows:
            continue
        info = trained.tasks[task]
        if info.kind == "multi_label":
            found[task] = _label_limit(trained, task, rows)
        elif info.kind == "mrc" and info.decode.null_threshold is not None:
            chosen = _null_limit(trained, task, rows)
            found.update({} if chosen is None else {task: chosen})
    infos = {name: with_limit(info, found[name]) if name in found else info for name, info in trained.tasks.items()}
    return replace(trained, tasks=infos), found


def with_limit(info: TaskInfo, limit: float) -> TaskInfo:
    """The task with another limit: of all its classes (`multi_label`), or of "no answer" (`mrc`)."""
    if info.kind == "mrc":
        return info.model_copy(update={"decode": info.decode.model_copy(update={"null_threshold": limit})})
    labels = dict.fromkeys(info.labels, limit)
    return info.model_copy(update={"thresholds": info.thresholds.model_copy(update={"labels": labels})})


def best_label_limit(
    probabilities: npt.NDArray[np.float32], gold: Sequence[frozenset[str]], labels: Sequence[str]
) -> float:
    """Of 0.05, 0.06, ... 0.95 the limit with most sets that are exactly right, then the best micro-averaged F1, then the one nearest to 0.5.

    Args:
        probabilities: [N, C].
        gold: the classes of each row.
        labels: names of the C classes.
    """

    def key(limit: float) -> tuple[float, float, float]:
        told = [frozenset(labels[int(c)] for c in np.flatnonzero(row)) for row in probabilities >= np.float32(limit)]
        scores = set_scores(gold, told)
        return scores["accuracy"], scores["f1"], -abs(limit - 0.5)

    return max((round(0.01 * i, 2) for i in range(5, 96)), key=key)


def best_null_limit(
    margins: npt.NDArray[np.float64], answered: npt.NDArray[np.float64], nothing: npt.NDArray[np.float64]
) -> float:
    """The limit with the greatest sum of scores; of several the one nearest to 0. "No answer" is given where the margin exceeds it.

    Args:
        margins: score of "no answer" over that of the best answer, [N].
        answered: score (F1) when the answer is given, [N].
        nothing: score when "no answer" is given, [N].
    """
    edges = np.unique(margins)
    candidates = np.concatenate([[0.0, edges[0] - 1, edges[-1] + 1], (edges[1:] + edges[:-1]) / 2])
    totals = [float(np.where(margins > limit, nothing, answered).sum()) for limit in candidates]
    best = max(totals)
    return float(min((c for c, t in zip(candidates, totals, strict=True) if t >= best - 1e-9), key=abs))


def _label_limit(trained: TrainedModel, task: str, rows: Sequence[tuple[Example, str]]) -> float:
    labels = trained.tasks[task].labels
    index = {label: c for c, label in enumerate(labels)}
    probabilities = np.zeros((len(rows), len(labels)), dtype=np.float32)
    gold = []
    answers = Predictor(trained, top_k=0).answers([example for example, _ in rows], [task])
    for row, ((example, field), own) in enumerate(zip(rows, answers, strict=True)):
        answer = own[task]
        assert isinstance(answer, Classification)
        for label in answer.ranking:
            probabilities[row, index[label.name]] = label.confidence
        wanted, _ = comparable("multi_label", example, field, answer)
        assert isinstance(wanted, frozenset)
        gold.append(wanted)
    return best_label_limit(probabilities, gold, labels)


def _null_limit(trained: TrainedModel, task: str, rows: Sequence[tuple[Example, str]]) -> float | None:
    """None where dev cannot tell: all of its questions have an answer, or none."""
    rows = [(example, field) for example, field in rows if example.pair]
    if len({bool(example.fields[field]) for example, field in rows}) < 2:
        return None
    info = trained.tasks[task]
    open_ended = replace(trained, tasks={**trained.tasks, task: with_limit(info, _NEVER_NOTHING)})
    answers = Predictor(open_ended, top_k=0).answers([example for example, _ in rows], [task])
    margins, answered, nothing = [], [], []
    for (example, field), own in zip(rows, answers, strict=True):
        answer = own[task]
        assert isinstance(answer, Answer)
        null = next((other for other in answer.alternatives if other.no_answer), None)
        if null is None:  # no answer can be given here, whatever the limit
            continue
        gold, told = comparable("mrc", example, field, answer)
        assert isinstance(gold, tuple)
        # confidences are a softmax of the scores, which a temperature divides
        ratio = np.log(max(null.confidence, 1e-300)) - np.log(max(answer.confidence, 1e-300))
        margins.append(info.calibration.temperature * ratio)
        answered.append(reading_scores([gold], [str(told)])["f1"])
        nothing.append(reading_scores([gold], [""])["f1"])
    return best_null_limit(np.array(margins), np.array(answered), np.array(nothing)) if margins else None

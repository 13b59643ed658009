"""Limits of decoding that are chosen on dev, at the end of training: from where on a class applies, and when a passage holds no answer.

They are searched for with the server's own decoding, and after temperatures, which change what a limit means.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace

from palm_serve.bundle.manifest import TaskInfo
from palm_trainer.data.example import Example
from palm_trainer.evaluation.evaluate import EvaluationSet
from palm_trainer.evaluation.predictor import Predictor
from palm_trainer.model.multi_task import TrainedModel
from palm_trainer.tasks import task_kind


def tune_thresholds(
    trained: TrainedModel, sets: Sequence[EvaluationSet], tasks: Collection[str]
) -> tuple[TrainedModel, dict[str, float]]:
    """Return the model with the limits of some tasks that are best on dev, and these limits by task.

    One limit for all classes of a `multi_label` task: the one with most sets that are exactly right, of several the one
    with the greatest micro-averaged F1. For `mrc` the null threshold with the greatest F1, where dev holds questions
    with and without an answer.

    Args:
        trained: after training.
        sets: dev.
        tasks: names of tasks of these kinds; those of other kinds are left as they are.
    """
    limits: dict[str, float] = {}
    for task in tasks:
        limit = _best_limit(trained, task, _labelled_rows(sets, task))
        if limit is not None:
            limits[task] = limit
    infos = dict(trained.tasks)
    for name, limit in limits.items():
        infos[name] = with_limit(infos[name], limit)
    return replace(trained, tasks=infos), limits


def with_limit(info: TaskInfo, limit: float) -> TaskInfo:
    """Return the task with another limit: of all its classes (`multi_label`), or of "no answer" (`mrc`)."""
    return task_kind(info.kind).with_limit(info, limit)


def _labelled_rows(sets: Sequence[EvaluationSet], task: str) -> list[tuple[Example, str]]:
    """Return the examples that have a label of the task, with its field."""
    rows = []
    for evaluation_set in sets:
        field = evaluation_set.fields.get(task)
        if field is not None:
            for example in evaluation_set.examples:
                if field in example.fields:
                    rows.append((example, field))
    return rows


def _best_limit(trained: TrainedModel, task: str, labelled: Sequence[tuple[Example, str]]) -> float | None:
    """Return the limit that is best on labelled dev examples; None where they cannot tell."""
    info = trained.tasks[task]
    kind = task_kind(info.kind)
    rows = kind.limit_rows(info, labelled)
    if not rows:
        return None
    searched = replace(trained, tasks={**trained.tasks, task: kind.without_limit(info)})
    answers = Predictor(searched, top_k=0).answers([example for example, _ in rows], [task])
    answered = []
    for (example, field), example_answers in zip(rows, answers, strict=True):
        answered.append((example, field, example_answers[task]))
    return kind.best_limit(info, answered)

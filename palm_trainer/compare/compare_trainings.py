"""Comparison of finished trainings: scores, paired differences and their confidence intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from palm_trainer.compare.notes import write_notes, write_warnings
from palm_trainer.compare.result import EXACT_MATCH, Comparison, ComparisonResult
from palm_trainer.compare.statistics import (
    BOOTSTRAP_DRAWS,
    FloatArray,
    ScoreCounts,
    apply_holm_correction,
    bootstrap_difference,
)
from palm_trainer.compare.trainings import TaskCounts, VariantTraining, read_counts
from palm_trainer.compare.variants import IN_DOMAIN, OUT_OF_DOMAIN, ComparisonPlan, ScoredTask
from palm_trainer.errors import CheckpointError
from palm_trainer.tasks import task_kind

_TrainingCounts = Mapping[tuple[str | None, int], Mapping[str, Mapping[str, TaskCounts]]]
"""(task or None for the joint training, seed) -> split -> task -> counts."""


@dataclass(frozen=True)
class _CountedTask:
    """Counts of both trainings for one comparison."""

    scored_task: ScoredTask
    metric: str
    joint: ScoreCounts
    alone: ScoreCounts


def compare_trainings(
    plan: ComparisonPlan, trainings: Sequence[VariantTraining], *, draws: int = BOOTSTRAP_DRAWS
) -> ComparisonResult:
    """Compare finished trainings.

    Args:
        plan: the comparison.
        trainings: all its trainings, each of them finished.
        draws: number of bootstrap resamples.

    Raises:
        CheckpointError: if the trainings were not evaluated on the same examples.
    """
    counts: dict[tuple[str | None, int], Mapping[str, Mapping[str, TaskCounts]]] = {}
    for training in trainings:
        counts[training.variant.task, training.seed] = read_counts(training)
    seeds = list(dict.fromkeys(training.seed for training in trainings))
    counted_tasks = []
    for scored_task in plan.scored_tasks:
        metric = task_kind(plan.kinds[scored_task.task]).primary_metric
        counted_tasks.append(_count_task(counts, scored_task, metric, seeds))
    for domain in (IN_DOMAIN, OUT_OF_DOMAIN):
        exact_match = _count_exact_match(counts, plan, domain, seeds)
        if exact_match is not None:
            counted_tasks.append(exact_match)
    comparisons = _compare_counts(counted_tasks, seeds, draws)
    notes = write_notes(plan, seeds, comparisons)
    warnings = write_warnings(plan.joint.config, comparisons)
    return ComparisonResult(plan, seeds, comparisons, notes, warnings)


def _compare_counts(counted_tasks: Sequence[_CountedTask], seeds: Sequence[int], draws: int) -> list[Comparison]:
    differences = []
    for counted in counted_tasks:
        differences.append(bootstrap_difference(counted.joint, counted.alone, draws=draws))
    significant = apply_holm_correction([difference.p for difference in differences])
    comparisons = []
    for counted, difference, holds in zip(counted_tasks, differences, significant, strict=True):
        comparison = Comparison(
            scored_task=counted.scored_task,
            metric=counted.metric,
            examples=counted.joint.numerator.shape[1],
            joint_scores=_scores_by_seed(counted.joint, seeds),
            alone_scores=_scores_by_seed(counted.alone, seeds),
            difference=difference,
            holds=holds,
        )
        comparisons.append(comparison)
    return comparisons


def _scores_by_seed(counts: ScoreCounts, seeds: Sequence[int]) -> dict[int, float]:
    return dict(zip(seeds, counts.scores().tolist(), strict=True))


def _count_task(counts: _TrainingCounts, scored_task: ScoredTask, metric: str, seeds: Sequence[int]) -> _CountedTask:
    joint_counts = []
    alone_counts = []
    for seed in seeds:
        joint_counts.append(counts[None, seed][scored_task.split][scored_task.task])
        alone_counts.append(counts[scored_task.task, seed][scored_task.split][scored_task.task])
    rows = [task_counts["rows"] for task_counts in (*joint_counts, *alone_counts)]
    _check_same_examples(scored_task.task, rows)
    return _CountedTask(scored_task, metric, _stack_counts(joint_counts), _stack_counts(alone_counts))


def _stack_counts(counts: Sequence[TaskCounts]) -> ScoreCounts:
    """Stack the counts of the seeds."""
    numerator = np.array([task_counts["numerator"] for task_counts in counts])
    denominator = np.array([task_counts["denominator"] for task_counts in counts])
    return ScoreCounts(numerator, denominator)


def _count_exact_match(
    counts: _TrainingCounts, plan: ComparisonPlan, domain: str, seeds: Sequence[int]
) -> _CountedTask | None:
    """Count the examples on which all tasks of the first data set with several tasks are right.

    Return None if no data set has several tasks.
    """
    splits = dict.fromkeys(scored_task.split for scored_task in plan.scored_tasks if scored_task.domain == domain)
    for split in splits:
        for evaluation_set in plan.evaluation_sets[split]:
            tasks = list(evaluation_set.fields)
            if len(tasks) < 2:
                continue
            row_prefix = f"{evaluation_set.data}:"
            joint_rows = []
            alone_rows = []
            for seed in seeds:
                joint_counts = {task: counts[None, seed][split].get(task) for task in tasks}
                alone_counts = {task: counts[task, seed][split].get(task) for task in tasks}
                joint_rows.append(_find_exact_rows(joint_counts, row_prefix))
                alone_rows.append(_find_exact_rows(alone_counts, row_prefix))
            _check_same_examples(EXACT_MATCH, [list(rows) for rows in (*joint_rows, *alone_rows)])
            scored_task = ScoredTask(" + ".join(tasks), domain, split)
            joint = _exact_match_counts(joint_rows)
            return _CountedTask(scored_task, EXACT_MATCH, joint, _exact_match_counts(alone_rows))
    return None


def _find_exact_rows(counts_by_task: Mapping[str, TaskCounts | None], row_prefix: str) -> dict[str, bool]:
    """Map each row of a data set to True if all tasks with a label are right."""
    exact_rows: dict[str, bool] = {}
    for counts in counts_by_task.values():
        if counts is None:
            continue
        for row, right in zip(counts["rows"], counts["right"], strict=True):
            if row.startswith(row_prefix):
                exact_rows[row] = exact_rows.get(row, True) and bool(right)
    return dict(sorted(exact_rows.items()))


def _exact_match_counts(rows_by_seed: Sequence[Mapping[str, bool]]) -> ScoreCounts:
    numerator: FloatArray = np.array([list(rows.values()) for rows in rows_by_seed], dtype=np.float64)
    return ScoreCounts(numerator, np.ones_like(numerator))


def _check_same_examples(name: str, rows_by_training: Sequence[Sequence[str]]) -> None:
    first_rows = list(rows_by_training[0])
    if any(list(rows) != first_rows for rows in rows_by_training):
        raise CheckpointError(
            f"{name}: all trainings must be evaluated on the same examples, got different ones. "
            "Delete the counts.json files of the trainings and compare again."
        )

"""Comparison of finished trainings: scores, paired differences and their confidence intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from palm_trainer.compare.notes import write_notes, write_warnings
from palm_trainer.compare.result import Comparison, ComparisonResult, DataSetScores
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
from palm_trainer.evaluation.evaluate import EXACT_MATCH, EvaluationSet
from palm_trainer.tasks import task_kind

_TrainingCounts = Mapping[tuple[str | None, int], Mapping[str, Mapping[str, TaskCounts]]]
"""(task or None for the joint training, seed) -> split -> task -> counts."""


@dataclass(frozen=True)
class _CountedTask:
    """Counts of both trainings for one comparison."""

    scored_task: ScoredTask
    metric: str
    rows: Sequence[str]
    """Names of the examples, as in counts.json."""
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
    seeds: list[int] = []
    for training in trainings:
        counts[training.variant.task, training.seed] = read_counts(training)
        if training.seed not in seeds:
            seeds.append(training.seed)
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
    p_values = []
    for counted in counted_tasks:
        difference = bootstrap_difference(counted.joint, counted.alone, draws=draws)
        differences.append(difference)
        p_values.append(difference.p)
    significant = apply_holm_correction(p_values)
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
            by_data_set=_score_data_sets(counted, seeds),
        )
        comparisons.append(comparison)
    return comparisons


def _score_data_sets(counted: _CountedTask, seeds: Sequence[int]) -> dict[str, DataSetScores]:
    """Return the scores of each data set, or nothing if there is only one."""
    columns: dict[str, list[int]] = {}
    for column, row in enumerate(counted.rows):
        columns.setdefault(row.rpartition(":")[0], []).append(column)
    if len(columns) < 2:
        return {}
    scores = {}
    for data, data_columns in columns.items():
        scores[data] = DataSetScores(
            examples=len(data_columns),
            joint_scores=_scores_by_seed(_select_columns(counted.joint, data_columns), seeds),
            alone_scores=_scores_by_seed(_select_columns(counted.alone, data_columns), seeds),
        )
    return scores


def _select_columns(counts: ScoreCounts, columns: Sequence[int]) -> ScoreCounts:
    return ScoreCounts(counts.numerator[:, columns], counts.denominator[:, columns])


def _scores_by_seed(counts: ScoreCounts, seeds: Sequence[int]) -> dict[int, float]:
    return dict(zip(seeds, counts.scores().tolist(), strict=True))


def _count_task(counts: _TrainingCounts, scored_task: ScoredTask, metric: str, seeds: Sequence[int]) -> _CountedTask:
    joint_counts = []
    alone_counts = []
    rows_by_training = []
    for seed in seeds:
        joint = counts[None, seed][scored_task.split][scored_task.task]
        alone_task = counts[scored_task.task, seed][scored_task.split][scored_task.task]
        joint_counts.append(joint)
        alone_counts.append(alone_task)
        rows_by_training += [joint["rows"], alone_task["rows"]]
    _check_same_examples(scored_task.task, rows_by_training)
    joint_stack = _stack_counts(joint_counts)
    return _CountedTask(scored_task, metric, rows_by_training[0], joint_stack, _stack_counts(alone_counts))


def _stack_counts(counts: Sequence[TaskCounts]) -> ScoreCounts:
    """Stack the counts of the seeds."""
    numerators = []
    denominators = []
    for task_counts in counts:
        numerators.append(task_counts["numerator"])
        denominators.append(task_counts["denominator"])
    return ScoreCounts(np.array(numerators), np.array(denominators))


def _count_exact_match(
    counts: _TrainingCounts, plan: ComparisonPlan, domain: str, seeds: Sequence[int]
) -> _CountedTask | None:
    """Count the examples on which all tasks are right, over all data sets with several tasks.

    Return None if no data set has several tasks.
    """
    for scored_task in plan.scored_tasks:
        if scored_task.domain != domain:
            continue
        sets = []
        for evaluation_set in plan.evaluation_sets[scored_task.split]:
            if len(evaluation_set.fields) > 1:
                sets.append(evaluation_set)
        if sets:
            return _count_exact_match_of_sets(counts, sets, scored_task, seeds)
    return None


def _count_exact_match_of_sets(
    counts: _TrainingCounts, sets: Sequence[EvaluationSet], scored_task: ScoredTask, seeds: Sequence[int]
) -> _CountedTask:
    """Count the examples of some sets, in the split of a scored task, on which all tasks are right."""
    data_names = []
    tasks: dict[str, str] = {}
    for evaluation_set in sets:
        data_names.append(evaluation_set.data)
        tasks.update(evaluation_set.fields)
    joint_values = []
    alone_values = []
    rows_by_training = []
    for seed in seeds:
        joint_counts = []
        alone_counts = []
        for task in tasks:
            joint_counts.append(counts[None, seed][scored_task.split].get(task))
            alone_counts.append(counts[task, seed][scored_task.split].get(task))
        joint_rows = _find_exact_rows(joint_counts, data_names)
        alone_rows = _find_exact_rows(alone_counts, data_names)
        joint_values.append(list(joint_rows.values()))
        alone_values.append(list(alone_rows.values()))
        rows_by_training += [list(joint_rows), list(alone_rows)]
    _check_same_examples(EXACT_MATCH, rows_by_training)
    all_tasks = replace(scored_task, task=" + ".join(tasks))
    joint = _exact_match_counts(joint_values)
    return _CountedTask(all_tasks, EXACT_MATCH, rows_by_training[0], joint, _exact_match_counts(alone_values))


def _find_exact_rows(counts_by_task: Sequence[TaskCounts | None], data_names: Sequence[str]) -> dict[str, bool]:
    """Map each row of some data sets to True if all tasks with a label are right."""
    exact_rows: dict[str, bool] = {}
    for counts in counts_by_task:
        if counts is None:
            continue
        for row, right in zip(counts["rows"], counts["right"], strict=True):
            if row.rpartition(":")[0] in data_names:
                exact_rows[row] = exact_rows.get(row, True) and bool(right)
    return dict(sorted(exact_rows.items()))


def _exact_match_counts(values: Sequence[Sequence[bool]]) -> ScoreCounts:
    """Return the counts of `[seeds, examples]` values."""
    numerator: FloatArray = np.array(values, dtype=np.float64)
    return ScoreCounts(numerator, np.ones_like(numerator))


def _check_same_examples(name: str, rows_by_training: Sequence[Sequence[str]]) -> None:
    first_rows = list(rows_by_training[0])
    for rows in rows_by_training:
        if list(rows) != first_rows:
            raise CheckpointError(
                f"{name}: all trainings must be evaluated on the same examples, got different ones. "
                "Delete the counts.json files of the trainings and compare again."
            )

"""Result of a comparison and its file compare.json.

    {"config": path, "seeds": [13, ...], "level": 0.95, "draws": 2000,
     "batches": {"joint": {data: n}, "alone": {task: {data: n}}},
     "comparisons": [{"task", "metric", "domain": "in domain" | "out of domain", "split", "examples",
                      "joint": {"mean", "scores": {seed: score}}, "alone": {the same},
                      "difference": {"mean", "low", "high", "p", "holds_with_holm"},
                      "verdict": "helped" | "hurt" | "no difference shown",
                      "by_data_set": {data: {"examples", "joint": {"mean", "scores"}, "alone": {the same}}}}],
     "notes": [sentences], "warnings": [sentences]}

All scores are fractions. `exact_match` is the share of examples on which all tasks of a data set
are right, over all data sets with several tasks. `by_data_set` is there if the score is over several data sets.
The joint side takes the answers of the one joint model, the other side those of the
models of the tasks alone.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from palm_trainer.compare.statistics import BOOTSTRAP_DRAWS, CONFIDENCE_LEVEL, ScoreDifference
from palm_trainer.compare.variants import ComparisonPlan, ScoredTask
from palm_trainer.config.atomic_files import write_file


@dataclass(frozen=True)
class DataSetScores:
    """Scores of both trainings by seed on the examples of one data set."""

    examples: int
    joint_scores: Mapping[int, float]
    alone_scores: Mapping[int, float]


@dataclass(frozen=True)
class Comparison:
    """Scores of both trainings by seed and their difference.

    They are of one task, or of all tasks together.
    """

    scored_task: ScoredTask
    metric: str
    examples: int
    joint_scores: Mapping[int, float]
    alone_scores: Mapping[int, float]
    difference: ScoreDifference
    holds: bool
    """True if the difference is significant with Holm's correction over all comparisons."""
    by_data_set: Mapping[str, DataSetScores] = field(default_factory=dict)
    """Scores of each data set, where there are several."""

    @property
    def verdict(self) -> str:
        """Return `helped`, `hurt` or `no difference shown`."""
        return self.difference.verdict

    @property
    def title(self) -> str:
        """Return the task and the domain, as in `intent in domain`."""
        return f"{self.scored_task.task} {self.scored_task.domain}"


@dataclass(frozen=True)
class ComparisonResult:
    """Everything that a comparison measured."""

    plan: ComparisonPlan
    seeds: Sequence[int]
    comparisons: Sequence[Comparison]
    notes: Sequence[str]
    warnings: Sequence[str]


def as_json(result: ComparisonResult, config: Path) -> dict[str, Any]:
    """Return the contents of compare.json, see the module docstring."""
    batches_alone = {}
    for variant in result.plan.variants:
        if variant.task is not None:
            batches_alone[variant.task] = dict(variant.batches)
    return {
        "config": str(config),
        "seeds": list(result.seeds),
        "level": CONFIDENCE_LEVEL,
        "draws": BOOTSTRAP_DRAWS,
        "batches": {"joint": dict(result.plan.joint.batches), "alone": batches_alone},
        "comparisons": [_comparison_as_json(comparison) for comparison in result.comparisons],
        "notes": list(result.notes),
        "warnings": list(result.warnings),
    }


def write_json(path: Path, value: object) -> None:
    """Write a JSON file. It is replaced as a whole."""
    write_file(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _comparison_as_json(comparison: Comparison) -> dict[str, Any]:
    difference = comparison.difference
    values: dict[str, Any] = {
        "task": comparison.scored_task.task,
        "metric": comparison.metric,
        "domain": comparison.scored_task.domain,
        "split": comparison.scored_task.split,
        "examples": comparison.examples,
        "joint": _scores_as_json(comparison.joint_scores),
        "alone": _scores_as_json(comparison.alone_scores),
        "difference": {
            "mean": difference.mean,
            "low": difference.low,
            "high": difference.high,
            "p": difference.p,
            "holds_with_holm": comparison.holds,
        },
        "verdict": comparison.verdict,
    }
    if comparison.by_data_set:
        by_data_set = {}
        for data, scores in comparison.by_data_set.items():
            by_data_set[data] = {
                "examples": scores.examples,
                "joint": _scores_as_json(scores.joint_scores),
                "alone": _scores_as_json(scores.alone_scores),
            }
        values["by_data_set"] = by_data_set
    return values


def _scores_as_json(scores: Mapping[int, float]) -> dict[str, Any]:
    mean = float(np.mean(list(scores.values())))
    return {"mean": mean, "scores": {str(seed): score for seed, score in scores.items()}}

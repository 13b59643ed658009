"""Finished cells -> what is told: comparisons with intervals, notes, and compare.json.

    {"config": path, "seeds": [13, ...], "level": 0.95, "draws": 2000,
     "batches": {"joint": {data: n}, "alone": {task: {data: n}}},
     "comparisons": [{"task", "metric", "domain": "in domain" | "out of domain", "split", "examples",
                      "joint": {"mean", "scores": {seed: score}}, "alone": {the same},
                      "difference": {"mean", "low", "high", "p", "holds_with_holm"}, "verdict": "helped" | "hurt" | "no difference shown"}],
     "notes": [sentences], "warnings": [sentences]}

All scores are fractions. `exact_match` is of examples on which all tasks of a data set are right: of the one joint model, or of the models
alone put together.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from palm_trainer.compare.statistics import DRAWS, LEVEL, Counts, Difference, difference, holm
from palm_trainer.compare.trainings import Cell, read_counts
from palm_trainer.compare.variants import IN_DOMAIN, OUT_OF_DOMAIN, Plan, Question
from palm_trainer.config.loader import Config
from palm_trainer.errors import CheckpointError
from palm_trainer.evaluation.evaluate import PRIMARY
from palm_trainer.model.atomic_files import write_file

EXACT = "exact_match"
FEW_SEEDS = 3

_Read = Mapping[tuple[str | None, int], Mapping[str, Mapping[str, Mapping[str, Any]]]]
"""(Task or None for the joint training, seed) -> split -> task -> counts."""


@dataclass(frozen=True)
class Comparison:
    """One task, or all of a data set together, on one domain: both sides, seed by seed, and their difference."""

    question: Question
    metric: str
    examples: int
    joint: Mapping[int, float]
    alone: Mapping[int, float]
    difference: Difference
    holds: bool
    """With Holm's correction for all comparisons of the result."""

    @property
    def verdict(self) -> str:
        """`helped`, `hurt` or `no difference shown`."""
        return self.difference.verdict


@dataclass(frozen=True)
class Result:
    """All that a comparison found."""

    plan: Plan
    seeds: Sequence[int]
    comparisons: Sequence[Comparison]
    notes: Sequence[str]
    warnings: Sequence[str]


def make_result(plan: Plan, cells: Sequence[Cell], *, draws: int = DRAWS) -> Result:
    """Compares. All cells must be finished. Raises CheckpointError where they were not judged on the same examples."""
    read: _Read = {(cell.variant.task, cell.seed): read_counts(cell) for cell in cells}
    seeds = list(dict.fromkeys(cell.seed for cell in cells))
    found = [_of_task(read, question, seeds) for question in plan.questions]
    metrics = [PRIMARY[plan.kinds[question.task]] for question in plan.questions]
    questions = list(plan.questions)
    for domain in (IN_DOMAIN, OUT_OF_DOMAIN):
        exact = _exact(read, plan, domain, seeds)
        if exact is not None:
            questions.append(exact[0])
            metrics.append(EXACT)
            found.append(exact[1])
    differences = [difference(joint, alone, draws=draws) for joint, alone in found]
    held = holm([one.p for one in differences])
    comparisons = [
        Comparison(
            question, metric, joint.numerator.shape[1], _by_seed(joint, seeds), _by_seed(alone, seeds), one, holds
        )
        for question, metric, (joint, alone), one, holds in zip(
            questions, metrics, found, differences, held, strict=True
        )
    ]
    return Result(plan, seeds, comparisons, _notes(plan, seeds, comparisons), _warnings(plan.joint.config, comparisons))


def as_json(result: Result, config: Path) -> dict[str, Any]:
    """The contents of compare.json; see the head of this module."""
    alone = {variant.task: dict(variant.batches) for variant in result.plan.variants if variant.task is not None}
    return {
        "config": str(config),
        "seeds": list(result.seeds),
        "level": LEVEL,
        "draws": DRAWS,
        "batches": {"joint": dict(result.plan.joint.batches), "alone": alone},
        "comparisons": [_comparison_json(one) for one in result.comparisons],
        "notes": list(result.notes),
        "warnings": list(result.warnings),
    }


def write_json(path: Path, value: object) -> None:
    """Writes a file as a whole."""
    write_file(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _comparison_json(one: Comparison) -> dict[str, Any]:
    sides = {
        name: {"mean": float(np.mean(list(scores.values()))), "scores": {str(seed): s for seed, s in scores.items()}}
        for name, scores in (("joint", one.joint), ("alone", one.alone))
    }
    found = one.difference
    return {
        "task": one.question.task,
        "metric": one.metric,
        "domain": one.question.domain,
        "split": one.question.split,
        "examples": one.examples,
        **sides,
        "difference": {
            "mean": found.mean,
            "low": found.low,
            "high": found.high,
            "p": found.p,
            "holds_with_holm": one.holds,
        },
        "verdict": one.verdict,
    }


def _of_task(read: _Read, question: Question, seeds: Sequence[int]) -> tuple[Counts, Counts]:
    joint, alone = (
        [read[side, seed][question.split][question.task] for seed in seeds] for side in (None, question.task)
    )
    _check_same(question.task, [own["rows"] for own in (*joint, *alone)])
    return _counts(joint), _counts(alone)


def _counts(own: Sequence[Mapping[str, Any]]) -> Counts:
    return Counts(np.array([one["numerator"] for one in own]), np.array([one["denominator"] for one in own]))


def _exact(read: _Read, plan: Plan, domain: str, seeds: Sequence[int]) -> tuple[Question, tuple[Counts, Counts]] | None:
    """All tasks of the first data set that has several, right together; None where there is no such data set."""
    splits = dict.fromkeys(question.split for question in plan.questions if question.domain == domain)
    sets = [(split, one) for split in splits for one in plan.sets[split] if len(one.fields) > 1]
    if not sets:
        return None
    split, one = sets[0]
    prefix = f"{one.data}:"
    joint, alone = (
        [_right(read, split, {task: task if alone else None for task in one.fields}, seed, prefix) for seed in seeds]
        for alone in (False, True)
    )
    _check_same(EXACT, [list(rows) for rows in (*joint, *alone)])
    sides = [np.array([list(rows.values()) for rows in side], dtype=np.float64) for side in (joint, alone)]
    counts = Counts(sides[0], np.ones_like(sides[0])), Counts(sides[1], np.ones_like(sides[1]))
    return Question(" + ".join(one.fields), domain, split), counts


def _right(read: _Read, split: str, sides: Mapping[str, str | None], seed: int, prefix: str) -> dict[str, bool]:
    """Whether all tasks that have a label are right, by row of the data set with this prefix."""
    right: dict[str, bool] = {}
    for task, side in sides.items():
        own = read[side, seed][split].get(task, {"rows": (), "right": ()})
        for row, correct in zip(own["rows"], own["right"], strict=True):
            if row.startswith(prefix):
                right[row] = right.get(row, True) and bool(correct)
    return dict(sorted(right.items()))


def _check_same(what: str, rows: Sequence[Sequence[str]]) -> None:
    if any(list(own) != list(rows[0]) for own in rows):
        raise CheckpointError(
            f"{what}: the models were not judged on the same examples. Delete the counts.json of the cells and compare again."
        )


def _by_seed(counts: Counts, seeds: Sequence[int]) -> dict[int, float]:
    return dict(zip(seeds, counts.scores().tolist(), strict=True))


def _notes(plan: Plan, seeds: Sequence[int], comparisons: Sequence[Comparison]) -> list[str]:
    notes = []
    if len(seeds) == 1:
        notes.append("1 seed: the intervals know nothing of other seeds. Give 3 or more: --seeds 13,14,15.")
    elif len(seeds) < FEW_SEEDS:
        notes.append(
            f"{len(seeds)} seeds: how much seeds differ is hardly known, which widens the intervals. Give 3 or more."
        )
    on_dev = [question.task for question in plan.questions if question.split == "dev"]
    if on_dev:
        notes.append(
            f"{', '.join(on_dev)}: no labels in test, so scored on dev, on which the checkpoints were chosen as well."
        )
    config = plan.joint.config
    without = [task for task in plan.kinds if not any(config.data[name].dev for name in config.tasks[task].data)]
    if without:
        notes.append(
            f"{', '.join(without)}: no dev; where nothing else has one, the last checkpoint is taken for the best."
        )
    if config.train.mixing == "loss_driven":
        notes.append(
            "mixing = loss_driven draws by the losses; a task alone takes the batches that an even split gives it."
        )
    if not any(question.domain == OUT_OF_DOMAIN for question in plan.questions):
        notes.append(
            "No text from another domain: `out_of_domain = ...` in [data.NAME] shows whether joint training generalises."
        )
    found = [one for one in comparisons if one.verdict != "no difference shown"]
    if len(comparisons) > 1 and found:
        held = [_title(one) for one in found if one.holds]
        notes.append(
            f"{len(comparisons)} comparisons at 95 % each: taken together (Holm's correction) "
            f"{'the difference holds for ' + ', '.join(held) if held else 'no difference holds'}."
        )
    return notes


def _title(one: Comparison) -> str:
    return f"{one.question.task} {one.question.domain}"


def _warnings(config: Config, comparisons: Sequence[Comparison]) -> list[str]:
    return [
        f"{_title(one)}: {-100 * one.difference.mean:.2f} points worse trained together "
        f"({100 * one.difference.low:+.2f} to {100 * one.difference.high:+.2f}): negative transfer. {_ways_out(config, one.question.task)}"
        for one in comparisons
        if one.verdict == "hurt"
    ]


def _ways_out(config: Config, task: str) -> str:
    """What the configuration could change, by how the other tasks reach this one; `task` may be several together."""
    if task not in config.tasks:
        return "Ways out: weigh the tasks otherwise (tasks.NAME.weight, train.balancing.method), or train them by themselves."
    own = config.tasks[task].data
    others = [name for name in config.tasks if name != task]
    beside = [name for name in others if set(config.tasks[name].data) & set(own)]
    foreign = [name for name in config.data if name not in own]
    ways = []
    if beside:
        ways.append(f"lower {', '.join(f'tasks.{name}.weight' for name in beside)}, or set train.balancing.method")
    if foreign and config.train.mixing == "mix_ratio":
        ways.append("lower " + ", ".join(f"data.{name}.mix_ratio" for name in foreign))
    elif foreign:
        ways.append(f"give {', '.join(foreign)} fewer batches (train.mixing)")
    auxiliary = [name for name in others if config.tasks[name].auxiliary or config.tasks[name].kind == "masked_lm"]
    if auxiliary:
        ways.append(f"leave out the auxiliary {', '.join(auxiliary)}")
    return f"Ways out: {'; '.join(ways)}; or train {task} by itself."

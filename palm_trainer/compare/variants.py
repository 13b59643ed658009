"""Plan of a comparison: the joint training and each scored task alone, at equal budget.

Equal budget: a task alone takes as many batches of each of its data sets as the joint training
takes of that data set, of the same size. It is evaluated on dev as often, evenly over its training.
Both therefore see the task's labels equally often. A task that does not detect out-of-scope text leaves out
`out_of_scope_train`, and takes as many passes over the other rows. Tasks that share a data set share its batches in
the joint training, and each task alone takes that many. The joint training additionally takes
batches of other data sets. The comparison measures their effect.

A task alone keeps all other settings: encoder, learning rates, schedule (over its own steps) and
regularization. It loses the settings that only balance tasks: its weight, its baseline, loss
balancing and mixing, and the task that it is decoded given. Each training keeps its own best
checkpoint on dev. The joint training selects by `train.checkpoints.select`, a task alone by its
primary metric. Early stopping is off.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from palm_trainer.config.loader import Config
from palm_trainer.config.schema import BalancingConfig, ScratchEncoderConfig, SequenceLabelTask
from palm_trainer.errors import ConfigError, DataError
from palm_trainer.evaluation.evaluate import EvaluationSet
from palm_trainer.runs.data_checks import DataFault, find_job_faults
from palm_trainer.runs.job import Job
from palm_trainer.runs.job_from_config import evaluation_sets, job_from_config, task_kinds
from palm_trainer.tasks import task_kind

JOINT = "joint"
IN_DOMAIN = "in domain"
OUT_OF_DOMAIN = "out of domain"

_OUT_OF_DOMAIN_SPLIT = "out_of_domain"


@dataclass(frozen=True)
class TrainingVariant:
    """The joint training of all tasks (`task` is None) or the training of one task alone.

    `batches` holds the number of batches of each data set over the whole training.
    """

    task: str | None
    config: Config
    batches: Mapping[str, int]

    @property
    def name(self) -> str:
        """Return the name shown to the user."""
        return JOINT if self.task is None else f"{self.task} alone"

    @property
    def folder(self) -> str:
        """Return its directory below the directory of the comparison.

        A task may be called `joint`.
        """
        return JOINT if self.task is None else f"alone/{self.task}"


@dataclass(frozen=True, slots=True)
class ScoredTask:
    """A task with the domain and the split that it is scored on."""

    task: str
    domain: str
    split: str


@dataclass(frozen=True)
class ComparisonPlan:
    """Variants (the joint one first), scored tasks and evaluation sets of each split in use."""

    variants: Sequence[TrainingVariant]
    kinds: Mapping[str, str]
    scored_tasks: Sequence[ScoredTask]
    evaluation_sets: Mapping[str, Sequence[EvaluationSet]]
    faults: Sequence[DataFault] = ()
    """What is wrong with the data."""

    @property
    def joint(self) -> TrainingVariant:
        """Return the variant that trains all tasks together."""
        return self.variants[0]


def _check_splits(config: Config) -> None:
    """Raise ConfigError if the seed of a training decides which rows it trains on."""
    for name, data in config.data.items():
        if data.dev_share:
            raise ConfigError(
                f"data.{name}.dev_share sets other rows apart with each seed, but a comparison needs the same rows for "
                "all seeds. Write them to files first: palm-train convert FILE FOLDER --split train=0.9,dev=0.1"
            )


def plan_comparison(config: Config) -> ComparisonPlan:
    """Plan a comparison.

    It reads the data and builds the joint training once, so that errors are reported before the
    first training.

    Raises:
        ConfigError: if there is nothing to compare.
        DataError: if a task has no labels to be scored on.
        PalmError: what `job_from_config` raises.
    """
    _check_tasks(config)
    _check_splits(config)
    checkpoints = config.train.checkpoints.model_copy(update={"patience": None, "best_per_task": False})
    joint_config = _with_train_settings(config, checkpoints=checkpoints)
    job = job_from_config(joint_config)
    joint_config = _with_evaluations(job.config, _count_evaluations(job), job.loop.total_steps)
    kinds = task_kinds(joint_config)
    sets_by_split: dict[str, Sequence[EvaluationSet]] = {}
    for split in ("test", "dev", _OUT_OF_DOMAIN_SPLIT):
        if any(data.paths(split) for data in joint_config.data.values()):
            sets_by_split[split] = evaluation_sets(joint_config, split, job.evaluation.splits)
    scored_tasks = _find_scored_tasks(kinds, sets_by_split)
    used_sets = {}
    for scored_task in scored_tasks:
        used_sets[scored_task.split] = sets_by_split[scored_task.split]
    batches = dict(job.loop.mixing.quotas)
    variants = [TrainingVariant(None, joint_config, batches)]
    for task in kinds:
        variants.append(_plan_task_alone(job, task, batches))
    return ComparisonPlan(variants, kinds, scored_tasks, used_sets, find_job_faults(job))


def select_task(sets: Sequence[EvaluationSet], task: str | None) -> list[EvaluationSet]:
    """Return the evaluation sets of one task, restricted to it, or all sets if `task` is None."""
    if task is None:
        return list(sets)
    selected = []
    for evaluation_set in sets:
        if task in evaluation_set.fields:
            selected.append(replace(evaluation_set, fields={task: evaluation_set.fields[task]}))
    return selected


def _check_tasks(config: Config) -> None:
    kinds = task_kinds(config)
    if not kinds:
        raise ConfigError(
            f"tasks must contain a task that is scored, got only auxiliary ones ({', '.join(config.tasks)}). "
            "Add a task without `auxiliary = true`."
        )
    if len(config.tasks) == 1:
        raise ConfigError(
            f"tasks must contain at least two tasks, got only '{next(iter(kinds))}'. "
            "Add a second task, or an auxiliary one, to compare with."
        )


def _find_scored_tasks(
    kinds: Mapping[str, str], sets_by_split: Mapping[str, Sequence[EvaluationSet]]
) -> list[ScoredTask]:
    """List each task with its split in domain, then each task with out-of-domain labels.

    The split is test, or dev if test has no label of the task.
    """
    labelled_tasks = {split: _find_labelled_tasks(sets) for split, sets in sets_by_split.items()}
    scored_tasks = []
    for task in kinds:
        if task in labelled_tasks.get("test", ()):
            split = "test"
        elif task in labelled_tasks.get("dev", ()):
            split = "dev"
        else:
            raise DataError(
                f"tasks.{task} must have labels in test or dev to be scored, got none. "
                "Add `test = ...` to its data set, or mark the task `auxiliary = true`."
            )
        scored_tasks.append(ScoredTask(task, IN_DOMAIN, split))
    for task in kinds:
        if task in labelled_tasks.get(_OUT_OF_DOMAIN_SPLIT, ()):
            scored_tasks.append(ScoredTask(task, OUT_OF_DOMAIN, _OUT_OF_DOMAIN_SPLIT))
    return scored_tasks


def _find_labelled_tasks(sets: Sequence[EvaluationSet]) -> set[str]:
    tasks = set()
    for evaluation_set in sets:
        for task, field in evaluation_set.fields.items():
            if any(field in example.fields for example in evaluation_set.examples):
                tasks.add(task)
    return tasks


def _plan_task_alone(job: Job, task: str, joint_batches: Mapping[str, int]) -> TrainingVariant:
    """Plan the training of one task on its data sets, with the joint batches of each."""
    joint_config = job.config
    task_data = joint_config.tasks[task].data
    batches = {name: joint_batches[name] for name in joint_config.data if name in task_data}
    batches_per_epoch = {}
    for name in batches:
        batches_per_epoch[name] = job.loop.sources[name].sampler.batches_per_epoch
    config = _config_of_task_alone(joint_config, task, batches, batches_per_epoch)
    if _drops_out_of_scope(joint_config, task):
        sources = job_from_config(config).loop.sources
        for name in batches:
            own_batches = sources[name].sampler.batches_per_epoch
            batches[name] = max(1, round(batches[name] * own_batches / batches_per_epoch[name]))
            batches_per_epoch[name] = own_batches
        config = _config_of_task_alone(joint_config, task, batches, batches_per_epoch)
    if isinstance(joint_config.encoder, ScratchEncoderConfig) and job.trained.tasks[task].windows is not None:
        # A vocabulary of this task's data alone divides the passages into other windows.
        sources = job_from_config(config).loop.sources
        for name in batches:
            batches_per_epoch[name] = sources[name].sampler.batches_per_epoch
        config = _config_of_task_alone(joint_config, task, batches, batches_per_epoch)
    config = _with_evaluations(config, _count_evaluations(job), sum(batches.values()))
    return TrainingVariant(task, config, batches)


def _drops_out_of_scope(joint_config: Config, task: str) -> bool:
    """Return True if a data set of the task has rows of `out_of_scope_train`, which it does not train on alone."""
    settings = joint_config.tasks[task]
    if task_kind(settings.kind).detects_out_of_scope:
        return False
    return any(joint_config.data[name].out_of_scope_train for name in settings.data)


def _count_evaluations(job: Job) -> int:
    """Return the evaluations of the joint training: as configured, or one per reference epoch."""
    reference = job.config.reference
    batches_per_epoch = job.loop.sources[reference].sampler.batches_per_epoch
    epochs = job.loop.mixing.quotas[reference] / batches_per_epoch
    return job.config.train.evaluations or math.ceil(epochs)


def _with_evaluations(config: Config, evaluations: int, steps: int) -> Config:
    return _with_train_settings(config, evaluations=min(evaluations, steps))


def _with_train_settings(config: Config, **settings: Any) -> Config:
    return config.model_copy(update={"train": config.train.model_copy(update=settings)})


def _config_of_task_alone(
    joint_config: Config, task: str, batches: Mapping[str, int], batches_per_epoch: Mapping[str, int]
) -> Config:
    reference = joint_config.reference if joint_config.reference in batches else next(iter(batches))
    data = {}
    for name in batches:
        settings: dict[str, Any] = {"mix_ratio": 1.0, "epochs": batches[name] / batches_per_epoch[name]}
        if not task_kind(joint_config.tasks[task].kind).detects_out_of_scope:
            settings["out_of_scope"] = ()
            settings["out_of_scope_train"] = ()
            settings["out_of_scope_test"] = ()
        data[name] = joint_config.data[name].model_copy(update=settings)
    train_settings = {
        "epochs": batches[reference] / batches_per_epoch[reference],
        "reference": reference,
        "checkpoints": joint_config.train.checkpoints.model_copy(update={"select": "average"}),
        "mixing": "per_task_epochs",
        "mixing_temperature": None,
        "balancing": BalancingConfig(),
    }
    train = joint_config.train.model_copy(update=train_settings)
    task_settings = joint_config.tasks[task].model_copy(update={"weight": 1.0, "baseline": None})
    if isinstance(task_settings, SequenceLabelTask):
        task_settings = task_settings.model_copy(update={"given": None})
    return Config(encoder=joint_config.encoder, data=data, tasks={task: task_settings}, train=train)

"""What is compared: the joint training as configured, and each scored task alone, at equal budget.

Equal budget: a task alone takes exactly as many batches of each of its data sets, of the same size, as the joint training takes of that data
set, and is evaluated on dev as often (evenly over its run). So both sides see the task's labels equally often. Tasks that share a data set
share its batches in the joint training; each takes as many alone. Batches of other data sets are what the joint training has on top: that is
the question.

Alone, a task keeps everything else of the configuration: encoder, rates, schedule (over its own steps), regularization. What only balances
tasks goes: its weight, its baseline, balancing and mixing. Each side keeps the checkpoint that is best on dev by its own measure: the joint training by
`train.checkpoints.select`, a task alone by its primary metric. Nothing stops early.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from palm_trainer.config.loader import Config
from palm_trainer.config.schema import BalancingConfig
from palm_trainer.errors import ConfigError, DataError
from palm_trainer.evaluation.evaluate import EvaluationSet
from palm_trainer.runs.job_from_config import Training, build_training, evaluation_sets, task_kinds

JOINT = "joint"
IN_DOMAIN, OUT_OF_DOMAIN = "in domain", "out of domain"


@dataclass(frozen=True)
class Variant:
    """One side: all tasks together (`task` is None), or one alone. `batches` by data set over the whole training."""

    task: str | None
    config: Config
    batches: Mapping[str, int]

    @property
    def name(self) -> str:
        """As the user reads it."""
        return JOINT if self.task is None else f"{self.task} alone"

    @property
    def folder(self) -> str:
        """Its directory below that of the comparison. A task may be called `joint`."""
        return JOINT if self.task is None else f"alone/{self.task}"


@dataclass(frozen=True, slots=True)
class Question:
    """What a task is scored on."""

    task: str
    domain: str
    split: str


@dataclass(frozen=True)
class Plan:
    """A comparison: the sides, the joint one first; what the tasks are scored on; and the examples of each split that is used."""

    variants: Sequence[Variant]
    kinds: Mapping[str, str]
    questions: Sequence[Question]
    sets: Mapping[str, Sequence[EvaluationSet]]

    @property
    def joint(self) -> Variant:
        """All tasks together."""
        return self.variants[0]


def plan_comparison(config: Config) -> Plan:
    """Reads the data and builds the joint training once, so that whatever is wrong is said before hours of training.

    Raises ConfigError where there is nothing to compare or to score, and what `build_training` raises.
    """
    _check_tasks(config)
    checkpoints = config.train.checkpoints.model_copy(update={"patience": None, "best_per_task": False})
    joint = config.model_copy(update={"train": config.train.model_copy(update={"checkpoints": checkpoints})})
    training = build_training(joint)
    joint = _with_evaluations(training.config, _evaluations(training), training.loop.total_steps)
    kinds = task_kinds(joint)
    sets = {split: evaluation_sets(joint, split) for split in ("test", "dev", "out_of_domain") if _has(joint, split)}
    questions = _questions(kinds, sets)
    batches = dict(training.loop.mixing.quotas)
    alone = [_alone(training, task, batches) for task in kinds]
    used = {question.split for question in questions}
    return Plan(
        [Variant(None, joint, batches), *alone],
        kinds,
        questions,
        {split: own for split, own in sets.items() if split in used},
    )


def only(sets: Sequence[EvaluationSet], task: str | None) -> list[EvaluationSet]:
    """The sets of one task; all of them for the joint training."""
    if task is None:
        return list(sets)
    return [replace(one, fields={task: one.fields[task]}) for one in sets if task in one.fields]


def _check_tasks(config: Config) -> None:
    kinds = task_kinds(config)
    if not kinds:
        raise ConfigError(
            f"tasks: none is scored ({', '.join(config.tasks)} only shape the encoder), so there is nothing to compare. Add a task that is no auxiliary."
        )
    if len(config.tasks) == 1:
        raise ConfigError(
            f"tasks: there is only '{next(iter(kinds))}', which is trained alone anyway. Add a second task, or an auxiliary one, to compare with."
        )


def _has(config: Config, split: str) -> bool:
    return any(data.paths(split) for data in config.data.values())


def _questions(kinds: Mapping[str, str], sets: Mapping[str, Sequence[EvaluationSet]]) -> list[Question]:
    """Each task on test, or on dev where test holds no label of it; and out of domain where there is such text."""
    labelled = {split: _labelled(own) for split, own in sets.items()}
    found = []
    for task in kinds:
        split = next((name for name in ("test", "dev") if task in labelled.get(name, ())), None)
        if split is None:
            raise DataError(
                f"tasks.{task}: neither test nor dev of its data holds a label of it, so it cannot be scored. "
                "Add `test = ...` to its data set, or mark the task `auxiliary = true`."
            )
        found.append(Question(task, IN_DOMAIN, split))
    beyond = labelled.get("out_of_domain", set())
    return found + [Question(task, OUT_OF_DOMAIN, "out_of_domain") for task in kinds if task in beyond]


def _labelled(sets: Sequence[EvaluationSet]) -> set[str]:
    return {
        task
        for one in sets
        for task, field in one.fields.items()
        if any(field in example.fields for example in one.examples)
    }


def _alone(training: Training, task: str, batches: Mapping[str, int]) -> Variant:
    """A task with its data sets only, and exactly as many batches of each as `batches` says."""
    joint = training.config
    own = {name: batches[name] for name in joint.data if name in joint.tasks[task].data}
    reference = joint.reference if joint.reference in own else next(iter(own))
    sizes = {name: training.loop.sources[name].sampler.batches_per_epoch for name in own}
    config = _alone_config(joint, task, reference, own, sizes)
    if joint.encoder.model == "scratch" and joint.tasks[task].kind == "mrc":
        # its own vocabulary cuts passages into other windows
        sources = build_training(config).loop.sources
        sizes = {name: sources[name].sampler.batches_per_epoch for name in own}
        config = _alone_config(joint, task, reference, own, sizes)
    return Variant(task, _with_evaluations(config, _evaluations(training), sum(own.values())), own)


def _evaluations(training: Training) -> int:
    """How often the joint training is evaluated: as configured, or once an epoch of its reference data set."""
    reference = training.config.reference
    epochs = training.loop.mixing.quotas[reference] / training.loop.sources[reference].sampler.batches_per_epoch
    return training.config.train.evaluations or math.ceil(epochs)


def _with_evaluations(config: Config, evaluations: int, steps: int) -> Config:
    return config.model_copy(update={"train": config.train.model_copy(update={"evaluations": min(evaluations, steps)})})


def _alone_config(
    joint: Config, task: str, reference: str, batches: Mapping[str, int], sizes: Mapping[str, int]
) -> Config:
    epochs = {name: batches[name] / sizes[name] for name in batches}
    classifies = joint.tasks[task].kind == "classify"
    data = {
        name: joint.data[name].model_copy(
            update={"mix_ratio": 1.0, "epochs": epochs[name]}
            | ({} if classifies else {"out_of_scope": (), "out_of_scope_test": ()})
        )
        for name in batches
    }
    train = joint.train.model_copy(
        update={
            "epochs": epochs[reference],
            "reference": reference,
            "checkpoints": joint.train.checkpoints.model_copy(update={"select": "average"}),
            "mixing": "per_task_epochs",
            "mixing_temperature": None,
            "balancing": BalancingConfig(),
        }
    )
    settings = joint.tasks[task].model_copy(update={"weight": 1.0, "baseline": None})
    return Config(encoder=joint.encoder, data=data, tasks={task: settings}, train=train)

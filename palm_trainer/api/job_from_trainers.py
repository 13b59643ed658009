"""Build the job of the declared tasks, for the runner that `palm-train run` uses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from palm_trainer.api.declarations import Backward, Task
from palm_trainer.api.fit_checks import check_options
from palm_trainer.api.lr_sched.schedulers import TriangularScheduler
from palm_trainer.api.optimizer import Adam
from palm_trainer.api.reader.base_reader import Reader
from palm_trainer.api.reader.text_reader import TextReader
from palm_trainer.api.save_run import run_config
from palm_trainer.api.wiring import Wired, class_texts
from palm_trainer.config.loader import TrainConfig, check_section
from palm_trainer.data.example import Example
from palm_trainer.data.splits import Split, Splits
from palm_trainer.data.targets.match import NEGATIVE, with_negatives
from palm_trainer.errors import ConfigError, WiringError
from palm_trainer.evaluation.calibration import FALSE_REJECTION
from palm_trainer.evaluation.evaluate import EvaluationSet
from palm_trainer.model.encoders import unfreeze_rows
from palm_trainer.model.heads.classify import ClassifyHead
from palm_trainer.model.heads.match import MatchHead
from palm_trainer.model.multi_task import TrainedModel
from palm_trainer.runs.class_vectors import start_prototype_heads
from palm_trainer.runs.job import EvaluationData, EvaluationPlan, Job, JobTask
from palm_trainer.tasks import task_kind
from palm_trainer.training.assembly import Order, attach_soft_targets, build_loop, order_sources, prepare_encoder
from palm_trainer.training.mixing import Mixing
from palm_trainer.training.optimization.schedules import Schedule
from palm_trainer.training.precision import choose_precision
from palm_trainer.training.processes import Processes

_DEFAULT_OUTPUT = Path("unused")
"""Stands for `train.output` where nothing is saved."""


@dataclass
class Plan:
    """Data wired to a model, and the order of its batches.

    `policy`: the mixing policy. `per_task_epochs`: each data set gets the epochs of its own data that its mix ratio says.
    `done`: steps that trained each data set.
    """

    wired: Wired
    mixing: Mixing
    epochs: float
    reference: str
    policy: str
    per_task_epochs: bool = False
    done: dict[str, int] = field(default_factory=dict)


def plan_training(
    wired: Wired, backward: Backward | None, reference: str, epochs: float, *, per_task_epochs: bool
) -> Plan:
    """Plan the order of the batches.

    Args:
        wired: the data.
        backward: names the mixing policy. None: build_backward was not called yet.
        reference: data set whose passes are counted as epochs.
        epochs: of the reference.
        per_task_epochs: each data set gets so many epochs of its own, times its mix ratio.

    Raises:
        ConfigError: settings that do not fit the tasks.
    """
    settings = _raw_settings(backward, wired, reference, epochs)
    check_options(settings, wired.groups, custom=wired.custom)
    if per_task_epochs and settings.get("mixing", "mix_ratio") not in ("mix_ratio", "per_task_epochs"):
        raise ConfigError(
            f"options.mixing: '{settings['mixing']}' plans the epochs of all tasks, and so does per_task_epochs. Leave one of them out."
        )
    train = train_settings(settings, per_task_epochs=per_task_epochs)
    ratios = wired.ratios if per_task_epochs else dict.fromkeys(wired.groups, 1.0)
    epochs_by_source = {}
    for name, ratio in ratios.items():
        epochs_by_source[name] = epochs * ratio
    order = order_sources(train, wired.sources, reference, wired.ratios, epochs_by_source)
    return Plan(wired, order.mixing, epochs, reference, train.mixing, per_task_epochs)


def _raw_settings(backward: Backward | None, wired: Wired, reference: str, epochs: float) -> dict[str, Any]:
    first = next(iter(wired.groups.values()))[0].fitted
    settings = {} if backward is None else backward.train_settings()
    facts = {"epochs": float(epochs), "reference": reference, "batch_size": first.batch_size, "seed": first.seed}
    return {**settings, **facts}


def train_settings(
    settings: Mapping[str, Any], output: Path = _DEFAULT_OUTPUT, *, per_task_epochs: bool = False
) -> TrainConfig:
    """Return the section `[train]` of raw settings.

    Args:
        settings: as a configuration has them.
        output: run directory.
        per_task_epochs: the mixing policy is that of this name.
    """
    mixing = {"mixing": "per_task_epochs"} if per_task_epochs else {}
    return check_section(TrainConfig, {**settings, **mixing, "output": output}, "options")


def plan_settings(plan: Plan, backward: Backward | None, output: Path = _DEFAULT_OUTPUT) -> TrainConfig:
    """Return a planned training as `[train]` says it.

    Args:
        plan: the training.
        backward: the settings of build_backward. None: it was not called.
        output: run directory.
    """
    settings = _raw_settings(backward, plan.wired, plan.reference, plan.epochs)
    schedule = None if backward is None else backward.optimizer.lr_schedualer
    if isinstance(schedule, TriangularScheduler):
        ratio = schedule.warmup_steps / schedule.num_train_steps
        settings |= {"schedule": "linear", "warmup_ratio": ratio}
    return train_settings(settings, output, per_task_epochs=plan.per_task_epochs)


def job_from_trainers(
    plan: Plan,
    backward: Backward,
    evaluation: EvaluationPlan,
    output: Path | None,
    evaluation_steps: int | None,
    processes: Processes,
    *,
    start_heads: bool,
) -> Job:
    """Return the job of a planned training, with its model on the device.

    Args:
        plan: the model, its data and the order of the batches.
        backward: the settings of build_backward.
        evaluation: of `evaluation_plan`.
        output: run directory. None: nothing is written.
        evaluation_steps: steps between evaluations. None: as the options say.
        processes: that train together.
        start_heads: compute the class vectors that prototype heads start from.

    Raises:
        ConfigError, CheckpointError: settings that cannot be met.
    """
    wired = plan.wired
    train = plan_settings(plan, backward, output or _DEFAULT_OUTPUT)
    _check_job(train, wired, evaluation, output, processes)
    trained = wired.trained
    examples = {}
    for name, members in wired.groups.items():
        examples[name] = text_examples(members[0].fitted)
    teachers = attach_soft_targets(train, trained, wired.sources, examples, processes.device(train.device))
    _smooth_labels(trained, train.regularization.label_smoothing)
    if wired.freezes_rows:
        unfreeze_rows(trained.model.backbone)
    if start_heads and processes.is_first:  # the others get the weights of the first
        _start_heads(wired, processes.device(train.device))
    word_dropout = prepare_encoder(train, trained, wired.sources, freeze_rows=wired.freezes_rows)
    optimizer = backward.optimizer
    loop = build_loop(
        train,
        trained.model,
        Order(wired.sources, plan.mixing, plan.reference),
        {task.name: task.weight for task in chain.from_iterable(wired.groups.values())},
        word_dropout,
        processes,
        make_optimizer=None if isinstance(optimizer, Adam) else optimizer.build,
        schedule=_schedule(backward, len(plan.mixing)),
    )
    saves_last = train.checkpoints.save_every_steps is not None and output is not None
    digests = [teacher.digest for teacher in teachers]
    return Job(
        train, trained, loop, plan.reference, evaluation, output, digests, evaluation_steps, saves_last=saves_last
    )


def _smooth_labels(trained: TrainedModel, smoothing: float) -> None:
    """Set the share of each label that the losses of classes give to the other classes."""
    for head in trained.model.heads.values():
        if isinstance(head, ClassifyHead | MatchHead):
            head.label_smoothing = smoothing


def _start_heads(wired: Wired, device: str) -> None:
    """Compute the class vectors of prototype heads, where there are some."""
    texts = class_texts(chain.from_iterable(wired.groups.values()), wired.targets)
    if texts:
        start_prototype_heads(wired.trained, texts, choose_precision(device, "fp32").device)


def _schedule(backward: Backward, total_steps: int) -> Schedule | None:
    """Return the schedule of the optimizer, held against the steps of the training. None: it has none."""
    schedule: Any = backward.optimizer.lr_schedualer
    if hasattr(schedule, "fitted"):
        schedule = schedule.fitted(total_steps)
    declared: Schedule | None = schedule
    return declared


def _check_job(
    train: TrainConfig, wired: Wired, evaluation: EvaluationPlan, output: Path | None, processes: Processes
) -> None:
    """Raise ConfigError for settings that need a call which was not made, or cannot be met with custom readers."""
    checkpoints = train.checkpoints
    if wired.reads_batches and (train.accumulate_steps > 1 or processes.size > 1):
        setting = "options.accumulate_steps" if train.accumulate_steps > 1 else "torchrun"
        raise ConfigError(
            f"{setting}: cuts batches, and a reader of your own gives whole ones. "
            "Train in one process without accumulation, or subclass a reader of palm.reader."
        )
    for key in ("patience", "average_best") if not evaluation.data("dev").sets else ():
        if getattr(checkpoints, key) is not None:
            raise ConfigError(
                f"options.checkpoints.{key}: chooses checkpoints on dev, and there is none. Call set_evaluator first."
            )
    needs_saver = {
        "checkpoints.average_best": checkpoints.average_best,
        "checkpoints.best_per_task": checkpoints.best_per_task,
        "checkpoints.save_every_steps": checkpoints.save_every_steps,
        "trackers": train.trackers,
    }
    for key, value in needs_saver.items():
        if value and output is None:
            raise ConfigError(f"options.{key}: writes files, and there is no run directory. Call set_saver first.")


# -- evaluation -------------------------------------------------------------------------------------------------------


def evaluation_sets(tasks: Sequence[Task], wired: Wired) -> list[EvaluationSet]:
    """Return what the evaluation readers hold. Nothing scores heads or readers that the user wrote without a kind.

    Raises:
        WiringError: a reader without labels of its task.
    """
    sets: dict[int, EvaluationSet] = {}
    for task in tasks:
        reader = task.evaluation_reader
        if not (task.answers and task.has_kind) or not isinstance(reader, TextReader):
            continue
        target = wired.targets[task.name]
        examples: Sequence[Example] = reader.examples
        if target.field == NEGATIVE:
            examples = with_negatives(examples, target.field)
        if not any(target.field in example.fields for example in examples):
            raise WiringError(
                f"trainer '{task.name}': {reader.path} has no labels in the column '{target.field}'. Evaluate on a labelled file."
            )
        shared = sets.setdefault(id(reader), EvaluationSet(task.name, examples, {}))
        positive = {**shared.positive, task.name: target.info.decode.match_label}
        fields = {**shared.fields, task.name: target.field}
        sets[id(reader)] = EvaluationSet(shared.data, shared.examples, fields, positive)
    return list(sets.values())


def evaluation_plan(tasks: Sequence[Task], plan: Plan, train: TrainConfig, encoder_name: str | None) -> EvaluationPlan:
    """Return the tasks and the data to evaluate, select and calibrate on.

    Args:
        tasks: of the trainers.
        plan: their data.
        train: the settings that the configuration of the run gets.
        encoder_name: directory or name of the pretrained weights. None: none were loaded.
    """
    wired = plan.wired
    sets = evaluation_sets(tasks, wired)
    loaded: dict[tuple[str, str], Split] = {}
    for name, members in wired.groups.items():
        loaded[name, "train"] = Split(list(text_examples(members[0].fitted)), _defects(members[0].fitted))
    for evaluation_set in sets:
        reader = next(task.evaluation_reader for task in tasks if task.name == evaluation_set.data)
        loaded[evaluation_set.data, "dev"] = Split(list(evaluation_set.examples), _defects(reader))
    out_of_scope = {}
    job_tasks = {}
    for name, members in wired.groups.items():
        for task in members:
            if task.answers and task.has_kind:
                job_tasks[task.name] = _job_task(task, name)
            if task.rejection is not None and task.rejection.reader is not None:
                out_of_scope[task.name] = task.rejection.reader.examples
    ordered_tasks = {task.name: job_tasks[task.name] for task in tasks if task.name in job_tasks}
    config = None if wired.custom else run_config(wired, plan.epochs, encoder_name, train)
    by_split = {"dev": EvaluationData(sets, out_of_scope=out_of_scope)}
    return EvaluationPlan(ordered_tasks, by_split, Splits({}, loaded), config)


def _job_task(task: Task, data: str) -> JobTask:
    _, head = task.declared
    job_task = JobTask(head.kind, (data,), tuned=task_kind(head.kind).has_open_limit(None))
    if task.rejection is None:
        return job_task
    settings = task.rejection.settings
    false_rejection = settings.false_rejection or FALSE_REJECTION
    return replace(job_task, false_rejection=false_rejection, out_of_scope_score=settings.out_of_scope_score)


def text_examples(reader: Reader) -> Sequence[Example]:
    """Return the examples of a reader of text. Others have none."""
    return reader.examples if isinstance(reader, TextReader) else ()


def _defects(reader: Reader | None) -> list[Any]:
    return reader.defects if isinstance(reader, TextReader) else []

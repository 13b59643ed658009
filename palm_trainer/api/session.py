"""A training as the trainers of the Python API run it. Trainer holds one with one task, MultiHeadTrainer one with all."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

from palm_trainer.api.declarations import Backward, Batch, LossVar, Task, TaskStep
from palm_trainer.api.fit_checks import by_reader, check_dev, check_head, shared_backbone
from palm_trainer.api.job_from_trainers import (
    Plan,
    evaluation_plan,
    evaluation_sets,
    job_from_trainers,
    plan_settings,
    plan_training,
)
from palm_trainer.api.load_checkpoint import load_checkpoint, take_over
from palm_trainer.api.save_run import Saver, begin_run, save_run
from palm_trainer.api.wiring import wire
from palm_trainer.errors import CheckpointError, ConfigError, WiringError
from palm_trainer.evaluation.evaluate import EvaluationSet, Metrics, evaluate, flatten
from palm_trainer.evaluation.predictor import Predictor
from palm_trainer.model.checkpoint import TRAINING, read_training_state, save_trained
from palm_trainer.model.encoders import WeightsReport, load_weights
from palm_trainer.model.multi_task import TrainedModel
from palm_trainer.runs.event_log import check_trackers
from palm_trainer.runs.events import Evaluated, Event, Saved
from palm_trainer.runs.fit_decoding import fit_decoding
from palm_trainer.runs.resume import check_alike, training_state
from palm_trainer.runs.run import Run
from palm_trainer.training.loop import Step, TrainingLoop
from palm_trainer.training.optimization.adamw import crf_rate
from palm_trainer.training.precision import choose_precision
from palm_trainer.training.processes import join_processes, launched_processes
from palm_trainer.training.source import Source

Say = Callable[[str], None]
PRINT: Say = partial(print, flush=True)
"""Prints each line at once, also into a pipe or a file."""


class Session:
    """The state of one training.

    Args:
        tasks: of the trainers, in their order.
        say: takes each line of the log. Of several processes the first alone logs.
    """

    def __init__(self, tasks: Sequence[Task], say: Say) -> None:
        self.tasks = tuple(tasks)
        self.given_say = say
        self.say: Say = say if launched_processes().is_first else lambda line: None
        self.trained: TrainedModel | None = None
        self._backward: Backward | None = None
        self._plan: Plan | None = None
        self._run: Run | None = None
        self._saver: Saver | None = None
        self._evaluates = False
        self._evaluation_steps: int | None = None
        self._best_metrics: Metrics | None = None
        self._encoder_name: str | None = None
        self._resume: Mapping[str, Any] | None = None
        self._heads_are_set = False
        """True once the prototype heads have class vectors, from their texts or from a checkpoint."""

    # -- putting it together ------------------------------------------------------------------------------------------

    def loss_var(self) -> LossVar:
        """Return the loss of all tasks, once every head is declared on one backbone."""
        for task in self.tasks:
            check_head(task)
        shared_backbone(self.tasks)
        return LossVar(tuple(map(attrgetter("name"), self.tasks)))

    def set_backward(self, backward: Backward) -> None:
        """Take the optimizer and the settings. Raises WiringError when its loss is that of another trainer."""
        loss_var = getattr(backward.optimizer, "loss_var", None)
        names = set(map(attrgetter("name"), self.tasks))
        if not isinstance(loss_var, LossVar) or set(loss_var.tasks) != names:
            listed = ", ".join(loss_var.tasks) if isinstance(loss_var, LossVar) else repr(loss_var)
            raise WiringError(
                f"build_backward: the optimizer minimizes the loss of {listed}, but this trainer's is that of {', '.join(sorted(names))}. "
                "Pass the loss_var of this trainer's own build_forward to Adam."
            )
        check_trackers(backward.options.get("trackers", ()))
        self._backward = backward
        self._run = None
        if self._plan is not None:
            plan = self._plan
            self._plan = plan_training(
                plan.wired, backward, plan.reference, plan.epochs, per_task_epochs=plan.per_task_epochs
            )

    def fit(self, reference: str, epochs: float, *, per_task_epochs: bool = False) -> Plan:
        """Wire the readers' data to a model and plan the steps.

        Args:
            reference: task whose data is the reference data set.
            epochs: of the reference.
            per_task_epochs: each data set gets so many epochs of its own.
        """
        wired = wire(self.tasks, self._encoder_name or "scratch")
        [data_set] = [name for name, members in wired.groups.items() if reference in map(attrgetter("name"), members)]
        plan = plan_training(wired, self._backward, data_set, epochs, per_task_epochs=per_task_epochs)
        if self.trained is not None:  # a checkpoint was loaded before
            take_over(wired.trained, self.trained)
        self.trained = wired.trained
        self._plan = plan
        self._run = None
        return plan

    @property
    def plan(self) -> Plan:
        """The planned training. Raises WiringError when there is none."""
        if self._plan is None:
            self.tasks[0].fitted  # noqa: B018  says which call is missing
            raise WiringError(
                "no data was planned yet. Call fit_readers_with_mixratio(readers, sampling_reference, num_epochs) first."
            )
        return self._plan

    @property
    def run(self) -> Run:
        """The run of the job, built when the first step is due. Raises WiringError when a call is missing."""
        if self._run is None:
            self._run = self._build_run()
        return self._run

    @property
    def loop(self) -> TrainingLoop:
        """The loop of the run."""
        return self.run.job.loop

    @property
    def started(self) -> bool:
        """True when a step was made."""
        return self._run is not None and self._run.job.loop.step > 0

    def _build_run(self) -> Run:
        plan, backward = self.plan, self._backward
        if backward is None:
            raise WiringError("there is no optimizer yet. Call build_backward(optimizer=Adam(loss_var, lr)) first.")
        if self._saver is not None:
            check_dev(self.tasks)
        backward = self._backward = self._with_rates_of_state(backward)
        output = None if self._saver is None else self._saver.path
        train = plan_settings(plan, backward, *([] if output is None else [output]))
        if train.evaluations is not None and self._evaluation_steps is not None:
            raise ConfigError("options.evaluations: set_evaluator has eval_steps already. Leave one of them out.")
        evaluation = evaluation_plan(self.tasks, plan, train, self._encoder_name)
        if not self._evaluates:
            evaluation = replace(evaluation, by_split={})
        steps = self._evaluation_steps if self._evaluates else len(plan.mixing)
        starts = not self._heads_are_set
        job = job_from_trainers(plan, backward, evaluation, output, steps, join_processes(), start_heads=starts)
        self._heads_are_set = True
        check_alike(job)
        run = Run(job, snapshot=self._snapshot)
        state, self._resume = self._resume, None
        if state is not None:
            job.loop.load_state_dict(state["loop"], averaged=True)
            plan.done.update(state.get("done", {}))
            vars(run.progress).update(state.get("progress", {}))
        if output is not None:
            begin_run(job, resumed=state is not None)
        return run

    def _with_rates_of_state(self, backward: Backward) -> Backward:
        """Return the settings with the rate of the CRF scores in the state to resume from: one of theirs, or the head's."""
        if self._resume is None:
            return backward
        rate = crf_rate(self._resume["loop"]["optimizer"])
        return replace(backward, options={**backward.options, "crf_learning_rate": rate})

    # -- training -----------------------------------------------------------------------------------------------------

    def steps(self) -> Iterator[Step]:
        """Train to the end. Saving and evaluation fall between the steps."""
        run = self.run
        for event in () if run.ended else run.events():
            if isinstance(event, Step):
                self._count(event)
                yield event
            else:
                self._report(event)

    def draw(self, step: int | None = None) -> Batch:
        """Return the next batch of the data set whose turn it is at a step of the plan, from 0. None: the next step."""
        loop = self.loop
        name = loop.mixing[loop.step if step is None else step]
        content, micro_batches = loop.sources[name].draw(loop.accumulate, loop.processes)
        return self.plan.wired.batch(name, content, micro_batches)

    def train_on(self, batch: Batch) -> Step:
        """Make one step, and what is due after it. Raises WiringError for anything but a batch of this session."""
        if not isinstance(batch, Batch) or batch.data not in self.plan.wired.sources:
            raise WiringError(
                "train_one_step: this is no batch of this trainer. Take it from the iterator that fit_reader gives, or from get_one_batch()."
            )
        run = self.run
        run.start()
        step = run.job.loop.train_on(batch.data, *batch.micro_batches)
        self._count(step)
        run.log_step(step)
        for event in run.between(step):
            self._report(event)
        for event in run.finish() if run.ended else ():
            self._report(event)
        return step

    def _count(self, step: Step) -> None:
        assert self._backward is not None
        self._backward.optimizer.current_lr = step.learning_rate
        self.plan.done[step.data] = self.plan.done.get(step.data, 0) + 1

    def _report(self, event: Event) -> None:
        """Log an event in PALM's lines."""
        if isinstance(event, Saved):
            description = "checkpoint" if event.kind == "ckpt" else "predict model"
            self.say(f"{description} has been saved at {event.path}")
        elif isinstance(event, Evaluated) and event.metrics:
            figures = []
            for name, value in flatten(event.metrics).items():
                figures.append(f"{name}: {value:.4f}")
            self.say(f"evaluation at step {event.step}: {', '.join(figures)}")
            if event.best:
                self._best_metrics = event.metrics

    def views(self, step: Step) -> list[TaskStep]:
        """Return the step as each of its tasks sees it."""
        sampler = self.plan.wired.sources[step.data].sampler
        task_steps = []
        for task, loss in step.losses.items():
            task_steps.append(TaskStep(step, task, sampler.position, sampler.batches_per_epoch, sampler.epoch, loss))
        return task_steps

    def source_of(self, task: Task) -> Source:
        """Return the data that trains a task."""
        return self.plan.wired.sources[self._data_of(task)]

    def steps_of(self, task: Task) -> int:
        """Return the number of steps that trained a task."""
        return self.plan.done.get(self._data_of(task), 0)

    def _data_of(self, task: Task) -> str:
        return next(name for name, members in by_reader(self.tasks).items() if task in members)

    def just_finished(self, step: Step) -> list[str]:
        """Return the target tasks whose planned steps ended with this one."""
        if self.plan.done.get(step.data) != self.plan.mixing.quotas[step.data]:
            return []
        return [task.name for task in by_reader(self.tasks)[step.data] if not task.auxiliary]

    # -- evaluation ---------------------------------------------------------------------------------------------------

    def set_evaluator(self, steps: int | None) -> None:
        """Take the evaluation readers of the tasks. The fields are those that training learns."""
        if not self.evaluation_sets():
            raise WiringError(
                "set_evaluator: there is nothing to evaluate. Give a reader of palm.reader to a trainer that is not auxiliary; "
                "what a head of your own predicts you score yourself."
            )
        self._evaluates = True
        self._evaluation_steps = steps
        if self._run is not None:
            job = self._run.job
            evaluation = evaluation_plan(self.tasks, self.plan, job.train, self._encoder_name)
            self._run.job = replace(job, evaluation=evaluation, evaluation_steps=steps)
            if job.output is not None:
                begin_run(self._run.job, resumed=True)

    def evaluate(self) -> Metrics:
        """Return metrics on the evaluation readers, with the averaged weights where there are some."""
        kinds = {}
        for task in self.tasks:
            if task.answers and task.has_kind:
                kinds[task.name] = task.declared[1].kind
        with self.averaged():
            return evaluate(Predictor(self.ready), kinds, self.evaluation_sets())

    def evaluation_sets(self) -> list[EvaluationSet]:
        """Return what the evaluation readers hold."""
        return evaluation_sets(self.tasks, self.plan.wired)

    def calibrated(self, trained: TrainedModel) -> TrainedModel:
        """Return a model as it is saved and exported. Without evaluation readers it stays as it is."""
        check_dev(self.tasks)
        if not self.evaluation_sets():
            return trained
        train = plan_settings(self.plan, self._backward)
        return fit_decoding(trained, evaluation_plan(self.tasks, self.plan, train, self._encoder_name))[0]

    # -- saving and loading -------------------------------------------------------------------------------------------

    def set_saver(self, saver: Saver) -> None:
        """Save while training."""
        if self.started and (self._saver is None or self._saver.path != saver.path):
            raise WiringError(
                "set_saver: the training has begun without a run directory. Call it before the first step."
            )
        if self._saver is None or self._saver.path != saver.path:
            self._run = None
        self._saver = saver

    def save(self, path: Path) -> None:
        """Write a run directory: config.toml, unless the user wrote a part of the model, and best/, calibrated on the evaluation readers."""
        plan = self.plan
        config = evaluation_plan(self.tasks, plan, plan_settings(plan, self._backward, path), self._encoder_name).config
        with self.averaged():
            trained = self.calibrated(self.ready)
            if launched_processes().is_first:
                save_run(path, trained, config, self._best_metrics)

    def _snapshot(self, run: Run, step: Step) -> Iterable[Saved]:
        """Write PALM's `ckpt.stepN` and `pred.stepN` where they are due."""
        saver, loop = self._saver, run.job.loop
        if saver is None or not (run.ended or step.step % saver.steps == 0):
            return
        if "ckpt" in saver.types:
            path = saver.path / f"ckpt.step{step.step}"
            with loop.averaged():
                state = {**training_state(run.job, run.progress), "done": self.plan.done}
                loop.processes.run_on_first(lambda: save_trained(self.ready, path, state))
            yield Saved(step.step, "ckpt", path)
        if "predict" in saver.types:
            path = saver.path / f"pred.step{step.step}"
            self.save(path)
            yield Saved(step.step, "predict", path)

    def averaged(self) -> AbstractContextManager[None]:
        """Put the averaged weights in the place of the trained ones, where there are some."""
        return nullcontext() if self._run is None else self._run.job.loop.averaged()

    @property
    def ready(self) -> TrainedModel:
        """The model that answers. Raises WiringError when there is none."""
        if self.trained is None:
            names = ", ".join(map(attrgetter("name"), self.tasks))
            raise WiringError(
                f"trainer '{names}' has nothing to predict with yet. Train it, or call load_ckpt(DIRECTORY) first."
            )
        return self.trained

    def load_pretrain(self, name: str) -> WeightsReport:
        """Copy pretrained weights into the backbone, and say what matched. Warns of tensors that were missing."""
        backbone = shared_backbone(self.tasks)
        if self.started:
            raise WiringError(
                "load_pretrain: the training has begun; its weights would be lost. Load before the first step."
            )
        self.say(f"Loading pretraining parameters from {name}...")
        report = load_weights(backbone, name)
        self._encoder_name = name
        self.say(str(report))
        if report.missing:
            warnings.warn(
                f"{name}: {len(report.missing)} tensors of the backbone are not in it and keep their random values: {', '.join(report.missing[:4])}. "
                "Build the backbone from the configuration that lies beside the weights.",
                stacklevel=3,
            )
        if self.trained is not None:
            self.trained = replace(self.trained, encoder=self.trained.encoder.model_copy(update={"name": name}))
        return report

    def load_checkpoint(self, path: Path, *, resume: bool) -> None:
        """Take the weights of `ckpt.stepN/`, or of a run directory's `best/`.

        Args:
            path: its directory.
            resume: also take optimizer, counters and the order of the batches.

        Raises:
            CheckpointError: it does not hold every task of this trainer, or no state to resume from.
        """
        loaded = load_checkpoint(path, self.tasks)
        if resume and not (path / TRAINING).is_file():
            raise CheckpointError(f"{path} holds no state to resume from. Load a ckpt.stepN directory.")
        self.say(f"Load model from {path}")
        self._heads_are_set = True
        if self.trained is None:
            self.trained = loaded
            loaded.model.to(choose_precision("auto", "fp32").device)
        else:
            take_over(self.trained, loaded)
        if resume:
            self._resume = read_training_state(path / TRAINING)
            self._run = None

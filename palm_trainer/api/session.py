"""A training as the trainers of the Python API run it: their tasks on the engine's one loop. Trainer holds one with one task, MultiHeadTrainer one with all."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from palm_trainer.api.calibrating import calibrated, check_dev
from palm_trainer.api.declarations import Batch, LossVar, Task, TaskStep
from palm_trainer.api.fit_checks import by_reader, check_head, shared_backbone
from palm_trainer.api.job_from_trainers import training_batch, wire
from palm_trainer.api.load_checkpoint import load_checkpoint, take_over
from palm_trainer.api.looping import Backward, Plan, loop_of, train_section
from palm_trainer.api.options import check_options
from palm_trainer.api.reader.text_reader import TextReader
from palm_trainer.api.save_run import Saver, save_run
from palm_trainer.data.targets.match import NEGATIVE, with_negatives
from palm_trainer.errors import CheckpointError, WiringError
from palm_trainer.evaluation.evaluate import EvaluationSet, Metrics, evaluate, score_of
from palm_trainer.evaluation.predictor import Predictor
from palm_trainer.model.checkpoint import TRAINING, WEIGHTS, save_trained
from palm_trainer.model.encoders import WeightsReport, load_weights
from palm_trainer.model.multi_task import TrainedModel
from palm_trainer.training.loop import Step, TrainingLoop
from palm_trainer.training.mixing import PlannedMixing, mix_ratio
from palm_trainer.training.precision import choose_precision
from palm_trainer.training.source import Source

Say = Callable[[str], None]
PRINT: Say = partial(print, flush=True)
"""Each line at once, also into a pipe or a file."""


@dataclass
class Evaluator:
    """What dev holds, how often it is asked (None: after each epoch of the reference data set), and the best so far."""

    sets: Sequence[EvaluationSet]
    steps: int | None
    best: float = -1.0
    metrics: Metrics | None = None


class Session:
    """The state of one training.

    Args:
        tasks: of the trainers, in their order.
        say: takes each line of the log.
    """

    def __init__(self, tasks: Sequence[Task], say: Say) -> None:
        self.tasks = tuple(tasks)
        self.say = say
        self.trained: TrainedModel | None = None
        self._backward: Backward | None = None
        self._plan: Plan | None = None
        self._loop: TrainingLoop | None = None
        self._saver: Saver | None = None
        self._evaluator: Evaluator | None = None
        self._encoder_name: str | None = None
        self._resume: Mapping[str, Any] | None = None

    # -- putting it together ------------------------------------------------------------------------------------------

    def loss_var(self) -> LossVar:
        """The loss of all tasks, once every head is declared on one backbone."""
        for task in self.tasks:
            check_head(task)
        shared_backbone(self.tasks)
        return LossVar(tuple(task.name for task in self.tasks))

    def set_backward(self, backward: Backward) -> None:
        """Takes the optimizer. Raises WiringError when its loss is another's."""
        given = getattr(backward.optimizer, "loss_var", None)
        mine = {task.name for task in self.tasks}
        if not isinstance(given, LossVar) or set(given.tasks) != mine:
            listed = ", ".join(given.tasks) if isinstance(given, LossVar) else repr(given)
            raise WiringError(
                f"build_backward: the optimizer minimizes the loss of {listed}, but this trainer's is that of {', '.join(sorted(mine))}. "
                "Pass the loss_var of this trainer's own build_forward to Adam."
            )
        self._backward, self._loop = backward, None
        self._check_options()

    def fit(self, reference: str, epochs: float, *, own_epochs: bool = False) -> Plan:
        """Wires the readers' data to a model and plans `epochs` of the reference task's data. With `own_epochs` each data set gets as many of its own."""
        wired = wire(self.tasks, self._encoder_name or "scratch")
        groups = by_reader(self.tasks)
        name = next(name for name, members in groups.items() if any(t.name == reference for t in members))
        batches = {data: source.sampler.batches_per_epoch for data, source in wired.sources.items()}
        ratios = wired.ratios
        if own_epochs:
            ratios = {data: ratio * batches[data] / batches[name] for data, ratio in ratios.items()}
        seed = self.tasks[0].fitted.seed
        mixing = PlannedMixing([mix_ratio(ratios, batches[name], epochs)], seed)
        if self.trained is not None:  # a checkpoint was loaded before
            take_over(wired.trained, self.trained)
        self.trained = wired.trained
        self._plan, self._loop = Plan(wired, mixing, epochs, name), None
        self._check_options()
        return self._plan

    def _check_options(self) -> None:
        if self._backward is not None and self._plan is not None:
            check_options(self._backward.options, by_reader(self.tasks), self._plan.wired.own)

    @property
    def plan(self) -> Plan:
        """What was fitted. Raises WiringError when nothing was."""
        if self._plan is None:
            self.tasks[0].fitted  # noqa: B018  says which call is missing
            raise WiringError(
                "no data was planned yet. Call fit_readers_with_mixratio(readers, sampling_reference, num_epochs) first."
            )
        return self._plan

    @property
    def loop(self) -> TrainingLoop:
        """The engine's loop, built when the first step is due. Raises WiringError when a call is missing."""
        if self._loop is None:
            self._loop = self._build_loop()
        return self._loop

    @property
    def started(self) -> bool:
        """Whether a step was made."""
        return self._loop is not None and self._loop.step > 0

    def _build_loop(self) -> TrainingLoop:
        plan, backward = self.plan, self._backward
        if backward is None:
            raise WiringError("there is no optimizer yet. Call build_backward(optimizer=Adam(loss_var, lr)) first.")
        if self._saver is not None:
            check_dev(self.tasks)
        loop = loop_of(self.tasks, plan, backward)
        if self._resume is not None:
            loop.load_state_dict(self._resume["loop"], averaged=True)
            plan.done.update(self._resume["done"])
            self._resume = None
        return loop

    # -- training -----------------------------------------------------------------------------------------------------

    def steps(self) -> Iterator[Step]:
        """Trains to the end; saving and evaluation fall between the steps."""
        while self.loop.step < self.loop.total_steps:
            step = self.train_on(self.draw())
            yield step
            self.between(step)

    def draw(self, step: int | None = None) -> Batch:
        """The next batch of the data set whose turn it is at a step of the plan, from 0 (None: the next)."""
        loop = self.loop
        name = loop.mixing[loop.step if step is None else step]
        content = loop.sources[name].next()
        return training_batch(content, name, by_reader(self.tasks)[name], self.plan.wired.trained.model.backbone)

    def train_on(self, batch: Batch) -> Step:
        """One step. Raises WiringError for anything but a batch of this session."""
        if not isinstance(batch, Batch) or batch.data not in self.plan.wired.sources:
            raise WiringError(
                "train_one_step: this is no batch of this trainer. Take it from the iterator that fit_reader gives, or from get_one_batch()."
            )
        step = self.loop.train_on(batch.data, batch.content)
        assert self._backward is not None
        self._backward.optimizer.current_lr = step.learning_rate
        self.plan.done[batch.data] = self.plan.done.get(batch.data, 0) + 1
        return step

    def views(self, step: Step) -> list[TaskStep]:
        """The step as each of its tasks sees it."""
        sampler = self.plan.wired.sources[step.data].sampler
        return [
            TaskStep(step, task, sampler.position, sampler.batches_per_epoch, sampler.epoch, loss)
            for task, loss in step.losses.items()
        ]

    def source_of(self, task: Task) -> Source:
        """The data that trains a task."""
        return self.plan.wired.sources[self._data_of(task)]

    def steps_of(self, task: Task) -> int:
        """Steps that trained a task."""
        return self.plan.done.get(self._data_of(task), 0)

    def _data_of(self, task: Task) -> str:
        return next(name for name, members in by_reader(self.tasks).items() if task in members)

    def just_finished(self, step: Step) -> list[str]:
        """Target tasks whose planned steps ended with this one."""
        if self.plan.done.get(step.data) != self.plan.mixing.quotas[step.data]:
            return []
        return [task.name for task in by_reader(self.tasks)[step.data] if not task.auxiliary]

    def between(self, step: Step) -> None:
        """Evaluates and saves where it is time."""
        loop, last = self.loop, step.step == self.loop.total_steps
        if self._evaluator is not None:
            sampler = self.plan.wired.sources[self.plan.reference].sampler
            every = self._evaluator.steps
            epoch_ended = step.data == self.plan.reference and sampler.position == sampler.batches_per_epoch
            if last or (epoch_ended if every is None else step.step % every == 0):
                self._evaluate(self._evaluator, step.step)
        if self._saver is not None and (last or step.step % self._saver.steps == 0):
            self._save_step(self._saver, loop.step)
            if last and (self._evaluator is None or self._evaluator.metrics is None):
                self.save(self._saver.path)
            elif last:
                self._calibrate_best(self._saver.path)

    # -- evaluation ---------------------------------------------------------------------------------------------------

    def set_evaluator(self, steps: int | None) -> None:
        """Takes the evaluation readers of the tasks. The fields are those that training learns."""
        sets = self.evaluation_sets()
        if not sets:
            raise WiringError(
                "set_evaluator: there is nothing to evaluate. Give a reader of palm.reader to a trainer that is not auxiliary; "
                "what a head of your own predicts you score yourself."
            )
        self._evaluator = Evaluator(sets, steps)

    def evaluate(self) -> Metrics:
        """Metrics on the evaluation readers, with the averaged weights where there are some."""
        sets = self.evaluation_sets()
        kinds = {task.name: task.declared[1].kind for task in self.tasks if task.answers and task.has_kind}
        with self.averaged():
            return evaluate(Predictor(self.ready), kinds, sets)

    def evaluation_sets(self) -> list[EvaluationSet]:
        """What the evaluation readers hold."""
        sets: dict[int, EvaluationSet] = {}
        targets = self.plan.wired.targets
        for task in self.tasks:
            reader = task.evaluation_reader
            if reader is None or not (task.answers and task.has_kind) or not isinstance(reader, TextReader):
                continue  # nothing scores a head or reader that the user wrote
            field_name = targets[task.name].field
            ranker = field_name == NEGATIVE
            examples = with_negatives(reader.examples, field_name) if ranker else reader.examples
            if not any(field_name in example.fields for example in examples):
                raise WiringError(
                    f"trainer '{task.name}': {reader.path} has no labels in the column '{field_name}'. Evaluate on a labelled file."
                )
            known = sets.setdefault(id(reader), EvaluationSet(task.name, examples, {}))
            positive = {**known.positive, task.name: targets[task.name].info.decode.match_label}
            sets[id(reader)] = EvaluationSet(
                known.data, known.examples, {**known.fields, task.name: field_name}, positive
            )
        return list(sets.values())

    def _evaluate(self, evaluator: Evaluator, step: int) -> None:
        metrics = self.evaluate()
        kinds = {task.name: task.declared[1].kind for task in self.tasks if task.has_kind}
        score = score_of(metrics, "average", kinds)
        told = ", ".join(
            f"{t} {n}: {v:.4f}" for t, own in metrics.items() if isinstance(own, dict) for n, v in own.items()
        )
        self.say(f"evaluation at step {step}: {told}")
        if score > evaluator.best:
            evaluator.best, evaluator.metrics = score, metrics
            if self._saver is not None:
                with self.averaged():
                    self._write(self._saver.path, self.ready)  # calibrated at the end: only the last best one matters

    # -- saving and loading -------------------------------------------------------------------------------------------

    def set_saver(self, saver: Saver) -> None:
        """Saves while training."""
        self._saver = saver

    def save(self, path: Path) -> None:
        """Writes a run directory: config.toml, unless the user wrote a part of the model, and best/, calibrated where there are evaluation readers."""
        with self.averaged():
            self._write(path, calibrated(self.ready, self.tasks, self.evaluation_sets()))

    def _write(self, path: Path, trained: TrainedModel) -> None:
        plan, groups = self.plan, by_reader(self.tasks)
        if plan.wired.own:  # no configuration can tell how to build it
            save_trained(trained, path / "best")
            return
        metrics = None if self._evaluator is None else self._evaluator.metrics
        train = train_section(path, plan, self._backward, self.tasks[0])
        save_run(path, trained, groups, plan.wired.targets, self._encoder_name, train, metrics)

    def _calibrate_best(self, path: Path) -> None:
        """Fits what is saved in best/, which may be of an earlier step; the model stays as it is."""
        model = self.ready.model
        last = {name: value.clone() for name, value in model.state_dict().items()}
        model.load_state_dict(load_file(path / "best" / WEIGHTS))
        self._write(path, calibrated(self.ready, self.tasks, self.evaluation_sets()))
        model.load_state_dict(last)

    def _save_step(self, saver: Saver, step: int) -> None:
        if "ckpt" in saver.types:
            path = saver.path / f"ckpt.step{step}"
            with self.averaged():
                save_trained(self.ready, path, {"loop": self.loop.state_dict(), "done": self.plan.done})
            self.say(f"checkpoint has been saved at {path}")
        if "predict" in saver.types:
            path = saver.path / f"pred.step{step}"
            self.save(path)
            self.say(f"predict model has been saved at {path}")

    def averaged(self) -> AbstractContextManager[None]:
        """The averaged weights in the place of the trained ones, where there are some."""
        return nullcontext() if self._loop is None else self._loop.averaged()

    @property
    def ready(self) -> TrainedModel:
        """The model that answers. Raises WiringError when there is none."""
        if self.trained is None:
            names = ", ".join(task.name for task in self.tasks)
            raise WiringError(
                f"trainer '{names}' has nothing to predict with yet. Train it, or call load_ckpt(DIRECTORY) first."
            )
        return self.trained

    def load_pretrain(self, name: str) -> WeightsReport:
        """Copies pretrained weights into the backbone, and says what matched; warns of tensors that were missing."""
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
        """Takes the weights of `ckpt.stepN/`, or of a run directory's `best/`. Raises CheckpointError when it does not hold every task of this trainer."""
        loaded = load_checkpoint(path, self.tasks)
        if resume and not (path / TRAINING).is_file():
            raise CheckpointError(f"{path} holds no state to resume from. Load a ckpt.stepN directory.")
        self.say(f"Load model from {path}")
        if self.trained is None:
            self.trained = loaded
            device = choose_precision("auto", "fp32").device
            loaded.model.to(device)
        else:
            take_over(self.trained, loaded)
        if resume:
            self._resume = torch.load(path / TRAINING, weights_only=True)
            self._loop = None

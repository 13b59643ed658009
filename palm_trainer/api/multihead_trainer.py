"""Joint training of several trainers on one encoder."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from palm_trainer.api.declarations import Batch, LossVar, loss_arrays
from palm_trainer.api.fit_checks import by_reader
from palm_trainer.api.phase import Phase
from palm_trainer.api.prediction import predict, write_predictions
from palm_trainer.api.raw_prediction import batches_of, raw_outputs
from palm_trainer.api.reader.base_reader import Reader
from palm_trainer.api.reader.text_reader import TextReader
from palm_trainer.api.session import PRINT, Say, Session
from palm_trainer.api.trainer import Trainer, check_phase
from palm_trainer.api.trainer_base import TrainerCalls
from palm_trainer.config.section import MAX_EPOCHS
from palm_trainer.errors import ConfigError, WiringError
from palm_trainer.evaluation.evaluate import Metrics

_FAR_FROM_PLANNED = 1.5
"""Ratio of the epochs of a task to the requested ones, above which a warning is given."""

Readers = Sequence[Reader] | Mapping[str, Reader]


class MultiHeadTrainer(TrainerCalls):
    """Trains the tasks of several Trainers together, with one encoder, one optimizer and one schedule.

    Each batch belongs to one reader, in random order. Trainers with the same reader object share its encoder passes.

    Args:
        trainers: a list, or a dict by name.
        say: called with each line of the log.

    Raises:
        WiringError: no trainer, two trainers of one name, or a member of another MultiHeadTrainer.
    """

    def __init__(self, trainers: Sequence[Trainer] | Mapping[str, Trainer], *, say: Say = PRINT) -> None:
        members = list(trainers.values()) if isinstance(trainers, Mapping) else list(trainers)
        names = list(map(attrgetter("name"), members))
        if not members:
            raise WiringError(
                "MultiHeadTrainer: trainers must hold at least one trainer, got none. Pass a list such as [Trainer('slot'), Trainer('intent')]."
            )
        for name in names:
            if names.count(name) > 1:
                raise WiringError(f"MultiHeadTrainer: two trainers are called '{name}'. Give each its own name.")
        if isinstance(trainers, Mapping) and list(trainers) != names:
            raise WiringError(
                f"MultiHeadTrainer: the keys of the dict must be the names of its trainers ({', '.join(names)}), got {', '.join(trainers)}."
            )
        self.trainers = dict(zip(names, members, strict=True))
        super().__init__(Session(list(map(attrgetter("task"), members)), say))
        for trainer in members:
            trainer.join(self._session)

    # -- training -----------------------------------------------------------------------------------------------------

    def build_forward(self) -> LossVar:
        """Return the loss of all tasks for Adam.

        Raises:
            WiringError: a trainer without build_forward, several backbones, or auxiliary trainers only.
        """
        if all(trainer.task.auxiliary for trainer in self.trainers.values()):
            raise WiringError(
                "MultiHeadTrainer: at least one trainer must not be auxiliary, since auxiliary tasks do not end the training. "
                "Leave set_as_aux out of one."
            )
        return self._session.loss_var()

    def fit_readers_with_mixratio(
        self,
        readers: Readers,
        sampling_reference: str,
        num_epochs: float,
        phase: Phase = "train",
        *,
        per_task_epochs: bool = False,
    ) -> Iterator[Batch]:
        """Set the data, plan the steps, and return the batches for `train_one_step`.

        PALM's rule: each task gets `num_epochs x mix_ratio x (batches in an epoch of the reference)` steps,
        whatever the size of its data. Their order is a random permutation.
        The log states the epochs of each task. A warning follows where they are far from `num_epochs`.

        Args:
            readers: readers in the order of the trainers, or by name. `num_epochs` of each must be None.
            sampling_reference: name of the trainer whose data is the reference.
            num_epochs: epochs of the reference.
            phase: `train`, or `predict` for `predict()`.
            per_task_epochs: give each task `num_epochs x mix_ratio` epochs of its own data instead.

        Raises:
            WiringError: components that do not fit.
            DataError: data that does not fit a head.
            ConfigError: a number of epochs that is not above 0.
        """
        readers_by_name = self._by_name(readers)
        if phase == "predict":
            self.merge_inference_readers(readers_by_name)
            return iter(())
        self._set_training_readers(readers_by_name)
        if sampling_reference not in self.trainers:
            raise WiringError(
                f"fit_readers_with_mixratio: sampling_reference must be one of {', '.join(self.trainers)}, got '{sampling_reference}'."
            )
        if not 0 < num_epochs <= MAX_EPOCHS:
            raise ConfigError(
                f"fit_readers_with_mixratio: num_epochs must be above 0 and at most {MAX_EPOCHS:,}, got {num_epochs}."
            )
        self._session.fit(sampling_reference, num_epochs, per_task_epochs=per_task_epochs)
        self._log_plan(num_epochs)
        return self._batches()

    def fit_readers(self, reader_dict: Mapping[str, Reader], phase: Phase = "train") -> Iterator[Batch]:
        """Call `fit_readers_with_mixratio` with the first trainer as the reference.

        The epochs are those of its reader, or one.
        """
        first = next(iter(self.trainers))
        reader = reader_dict.get(first)
        epochs = 1 if reader is None or reader.num_epochs is None else reader.num_epochs
        for task_reader in reader_dict.values():
            task_reader.num_epochs = None
        return self.fit_readers_with_mixratio(reader_dict, first, epochs, phase)

    def train(self, print_steps: int = 5) -> None:
        """Train all planned steps, with a log line every `print_steps` steps."""
        self._train(print_steps, lambda view, speed: view.global_line(speed))

    def train_one_step(self, batch: Batch) -> tuple[dict[str, npt.NDArray[np.float64]], int]:
        """Train one step on a batch of `fit_readers_with_mixratio`.

        Returns:
            The loss by its name, `NAME.loss`, and the position of the trainer.
        """
        step = self._session.train_on(batch)
        return loss_arrays(step), list(self.trainers).index(step.data)

    def get_one_batch(self, phase: Phase = "train") -> Batch:
        """Return the next batch of the plan. Raises WiringError in phase `predict`."""
        if phase == "predict":
            raise WiringError(
                "MultiHeadTrainer: phase must be 'train', got 'predict'. "
                "Take the batches of a task from merge_inference_readers(readers)(task_name)."
            )
        return self._session.draw()

    @property
    def overall_train_steps(self) -> int:
        """Number of training steps, including those of auxiliary tasks."""
        return len(self._session.plan.mixing)

    def set_evaluator(self, readers: Readers, eval_steps: int | None = None) -> None:
        """Evaluate in training, every `eval_steps` steps or (None) after each epoch of the reference.

        `set_saver` keeps the best weights.
        """
        self._set_evaluation_readers(readers)
        self._session.set_evaluator(eval_steps)

    def evaluate(self, readers: Readers | None = None) -> Metrics:
        """Return the metrics of every task on labelled files (None: those of `set_evaluator`), decoded as in the service."""
        if readers is not None:
            self._set_evaluation_readers(readers)
        return self._session.evaluate()

    # -- prediction ---------------------------------------------------------------------------------------------------

    def build_predict_forward(self) -> LossVar:
        """Check that build_predict_forward of each trainer was called with one encoder."""
        return self._session.loss_var()

    def merge_inference_readers(self, readers: Readers) -> Callable[[str], Iterator[Batch]]:
        """Return a function from the name of a task to the batches of its reader."""
        readers_by_name = self._by_name(readers)
        for name, reader in readers_by_name.items():
            self.trainers[name].task.predict_reader = reader

        def joint_iterator(task_name: str) -> Iterator[Batch]:
            if task_name not in readers_by_name:
                raise WiringError(
                    f"there is no reader of a task '{task_name}'. There are: {', '.join(readers_by_name)}."
                )
            return batches_of(self._session, self.trainers[task_name].task, readers_by_name[task_name])

        return joint_iterator

    def predict_one_batch(
        self, task_name: str, batch: Mapping[str, npt.NDArray[Any]]
    ) -> dict[str, npt.NDArray[np.float32]]:
        """Return the raw tensors of a head by name."""
        if task_name not in self.trainers:
            raise WiringError(
                f"predict_one_batch: there is no task '{task_name}'. There are: {', '.join(self.trainers)}."
            )
        return raw_outputs(self._session, self.trainers[task_name].task, batch)

    def predict(
        self, reader: Reader | None = None, output_dir: str | Path | None = None, print_steps: int = 1000
    ) -> dict[str, list[dict[str, Any]]]:
        """Return the records of every task by its name.

        Args:
            reader: reader whose texts all tasks but auxiliary ones answer, in one encoder pass.
                None: each task answers the texts of its reader of `merge_inference_readers`.
            output_dir: directory for `NAME/predictions.json` of each task. None: not written.
            print_steps: batches between two log lines of a task that is predicted separately.
        """
        records: dict[str, list[dict[str, Any]]] = {}
        answering: dict[str, Trainer] = {}
        folders: dict[str, Path | None] = {}
        for name, trainer in self.trainers.items():
            if trainer.task.answers:
                answering[name] = trainer
                folders[name] = None if output_dir is None else Path(output_dir) / name
        if isinstance(reader, TextReader):
            joint_tasks = [name for name, trainer in answering.items() if trainer.task.has_kind]
            records = predict(self._session.ready, reader.examples, joint_tasks, lambda done, total: None)
            for name, folder in folders.items():
                if folder is not None and name in records:
                    path = write_predictions(folder, self._session.ready.tasks[name].kind, records[name])
                    self._session.say(f"Predictions saved at {path}")
        for name, trainer in answering.items():
            if name not in records:  # a custom reader or head
                if reader is not None:
                    trainer.task.predict_reader = reader
                records[name] = trainer.predict(folders[name], print_steps)
        return records

    # -- readers ------------------------------------------------------------------------------------------------------

    def _by_name(self, readers: Readers) -> dict[str, Reader]:
        if isinstance(readers, Mapping):
            for name in readers:
                if name not in self.trainers:
                    raise WiringError(
                        f"there is no trainer '{name}' for the reader of that name. There are: {', '.join(self.trainers)}."
                    )
            return dict(readers)
        if len(readers) != len(self.trainers):
            raise WiringError(
                f"{len(readers)} readers for {len(self.trainers)} trainers ({', '.join(self.trainers)}). Pass one for each, in this order."
            )
        return dict(zip(self.trainers, readers, strict=True))

    def _set_training_readers(self, readers: Mapping[str, Reader]) -> None:
        for name, trainer in self.trainers.items():
            if name not in readers:
                raise WiringError(f"trainer '{name}' got no reader. Readers were given for: {', '.join(readers)}.")
            reader = check_phase(readers[name], name)
            if reader.num_epochs is not None:
                raise WiringError(
                    f"trainer '{name}': num_epochs of its reader must be None, since the MultiHeadTrainer plans the epochs, got {reader.num_epochs}. "
                    "Load its data with num_epochs=None."
                )
            trainer.task.reader = reader

    def _set_evaluation_readers(self, readers: Readers) -> None:
        for name, reader in self._by_name(readers).items():
            self.trainers[name].task.evaluation_reader = reader

    def _log_plan(self, num_epochs: float) -> None:
        plan, say = self._session.plan, self._session.say
        for data, members in by_reader(self._session.tasks).items():
            quota = plan.mixing.quotas[data]
            epochs = quota / plan.wired.sources[data].sampler.batches_per_epoch
            for task in members:
                if not task.auxiliary:
                    say(f"{task.name}: expected train steps {quota}.")
                say(f"{task.name}: {epochs:.1f} epochs of its data.")
                requested = num_epochs * task.mix_ratio
                if plan.policy == "mix_ratio" and epochs > _FAR_FROM_PLANNED * requested:
                    warnings.warn(
                        f"trainer '{task.name}' is planned for {epochs:.1f} epochs of its data, not {requested:g}. "
                        f"PALM's mix ratio counts epochs of '{plan.reference}'. "
                        "Set per_task_epochs=True to count its own epochs, or lower its mix_ratio.",
                        stacklevel=3,
                    )
        say(f"Estimated overall train steps {len(plan.mixing)}.")

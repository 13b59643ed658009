"""MultiHeadTrainer: several trainers on one encoder. It holds trainers; it is not one."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from palm_trainer.api.declarations import Batch, LossVar
from palm_trainer.api.fit_checks import by_reader
from palm_trainer.api.phase import Phase
from palm_trainer.api.prediction import predict, write_predictions
from palm_trainer.api.raw_prediction import batches_of, raw_outputs
from palm_trainer.api.reader.base_reader import Reader
from palm_trainer.api.reader.text_reader import TextReader
from palm_trainer.api.session import PRINT, Say, Session
from palm_trainer.api.trainer import Trainer, check_phase
from palm_trainer.api.trainer_base import TrainerCalls
from palm_trainer.errors import ConfigError, WiringError
from palm_trainer.evaluation.evaluate import Metrics

_FAR_FROM_PLANNED = 1.5
"""Epochs of a task over those asked for, from which on it is worth a warning."""

Readers = Sequence[Reader] | Mapping[str, Reader]


class MultiHeadTrainer(TrainerCalls):
    """Trains the tasks of several Trainers together: one encoder, one optimizer, one schedule, batch by batch in random order.

    Trainers that are given the same reader object are trained in one encoder pass on the same batch.

    Args:
        trainers: a list, or a dict by name.
        say: takes each line of the log.

    Raises WiringError for no trainer, doubled names, and a trainer that is held already.
    """

    def __init__(self, trainers: Sequence[Trainer] | Mapping[str, Trainer], *, say: Say = PRINT) -> None:
        held = list(trainers.values()) if isinstance(trainers, Mapping) else list(trainers)
        names = [trainer.name for trainer in held]
        if not held:
            raise WiringError(
                "MultiHeadTrainer: no trainer given. Pass a list such as [Trainer('slot'), Trainer('intent')]."
            )
        doubled = next((name for name in names if names.count(name) > 1), None)
        if doubled is not None:
            raise WiringError(f"MultiHeadTrainer: two trainers are called '{doubled}'. Give each its own name.")
        if isinstance(trainers, Mapping) and list(trainers) != names:
            raise WiringError(
                f"MultiHeadTrainer: the dict names {', '.join(trainers)}, but its trainers are called {', '.join(names)}. Make them equal."
            )
        self.trainers = {trainer.name: trainer for trainer in held}
        super().__init__(Session([trainer.task for trainer in held], say))
        for trainer in held:
            trainer.join(self._session)

    # -- training -----------------------------------------------------------------------------------------------------

    def build_forward(self) -> LossVar:
        """The loss of all tasks, for Adam. Raises WiringError unless each trainer's build_forward was called, with one backbone."""
        if all(trainer.task.auxiliary for trainer in self.trainers.values()):
            raise WiringError(
                "MultiHeadTrainer: all trainers are auxiliary, so that nothing ends the training. Leave set_as_aux out of at least one."
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
        """Takes the data and plans the steps; batches for `train_one_step`.

        PALM's rule: each task gets `num_epochs x mix_ratio x (batches an epoch of the reference)` steps, whatever its own size. The order is
        a random permutation of exactly these. The epochs that this means for each task are said; a warning tells where they are far from
        `num_epochs`.

        Args:
            readers: in the order of the trainers, or by name; `num_epochs` of each is None.
            sampling_reference: name of the trainer whose data counts.
            num_epochs: of the reference.
            phase: `train`, or `predict` for `predict()`.
            per_task_epochs: each task gets `num_epochs x mix_ratio` epochs of its own data instead.

        Raises:
            WiringError, DataError: before the first step, for whatever does not fit.
        """
        given = self._by_name(readers)
        if phase == "predict":
            self.merge_inference_readers(given)
            return iter(())
        self._take(given)
        if sampling_reference not in self.trainers:
            raise WiringError(
                f"fit_readers_with_mixratio: sampling_reference is '{sampling_reference}', but the trainers are {', '.join(self.trainers)}."
            )
        if not num_epochs > 0:
            raise ConfigError(f"fit_readers_with_mixratio: num_epochs is {num_epochs}, but is above 0.")
        self._session.fit(sampling_reference, num_epochs, per_task_epochs=per_task_epochs)
        self._tell_plan(num_epochs)
        return self._batches()

    def fit_readers(self, reader_dict: Mapping[str, Reader], phase: Phase = "train") -> Iterator[Batch]:
        """The first trainer's data is the reference, one epoch of it unless its reader says how many."""
        first = next(iter(self.trainers))
        reader = reader_dict.get(first)
        epochs = 1 if reader is None or reader.num_epochs is None else reader.num_epochs
        for one in reader_dict.values():
            one.num_epochs = None
        return self.fit_readers_with_mixratio(reader_dict, first, epochs, phase)

    def train(self, print_steps: int = 5) -> None:
        """Trains until every task had its steps, with a line every `print_steps` steps."""
        self._train(print_steps, lambda view, speed: view.global_line(speed))

    def train_one_step(self, batch: Batch) -> tuple[dict[str, npt.NDArray[np.float64]], int]:
        """One step on a batch of `fit_readers_with_mixratio`; `{NAME.loss: value}` and the position of its trainer."""
        step = self._session.train_on(batch)
        losses = {f"{task}.loss": np.array(loss) for task, loss in step.losses.items()}
        return losses, list(self.trainers).index(step.data)

    def get_one_batch(self, phase: Phase = "train") -> Batch:
        """The next batch of the plan."""
        if phase == "predict":
            raise WiringError(
                "MultiHeadTrainer: which task's batch? Take it from merge_inference_readers(readers)(task_name)."
            )
        return self._session.draw()

    @property
    def overall_train_steps(self) -> int:
        """Steps of the whole training, those of auxiliary tasks included."""
        return len(self._session.plan.mixing)

    def set_evaluator(self, readers: Readers, eval_steps: int | None = None) -> None:
        """Evaluates while training, every `eval_steps` steps or (None) after each epoch of the reference; `set_saver` keeps the best weights."""
        self._take_evaluation(readers)
        self._session.set_evaluator(eval_steps)

    def evaluate(self, readers: Readers | None = None) -> Metrics:
        """Metrics of every task on labelled files (None: those of `set_evaluator`), decoded as they are served."""
        if readers is not None:
            self._take_evaluation(readers)
        return self._session.evaluate()

    # -- prediction ---------------------------------------------------------------------------------------------------

    def build_predict_forward(self) -> LossVar:
        """Checks that each trainer's build_predict_forward was called, with one encoder."""
        return self._session.loss_var()

    def merge_inference_readers(self, readers: Readers) -> Callable[[str], Iterator[Batch]]:
        """A function from a task's name to the batches of its reader."""
        given = self._by_name(readers)
        for name, reader in given.items():
            self.trainers[name].task.predict_reader = reader

        def joint_iterator(task_name: str) -> Iterator[Batch]:
            if task_name not in given:
                raise WiringError(f"there is no reader of a task '{task_name}'. There are: {', '.join(given)}.")
            return batches_of(self._session, self.trainers[task_name].task, given[task_name])

        return joint_iterator

    def predict_one_batch(
        self, task_name: str, batch: Mapping[str, npt.NDArray[Any]]
    ) -> dict[str, npt.NDArray[np.float32]]:
        """A head's raw tensors for a batch, by name."""
        if task_name not in self.trainers:
            raise WiringError(
                f"predict_one_batch: there is no task '{task_name}'. There are: {', '.join(self.trainers)}."
            )
        return raw_outputs(self._session, self.trainers[task_name].task, batch)

    def predict(
        self, reader: Reader | None = None, output_dir: str | Path | None = None, print_steps: int = 1000
    ) -> dict[str, list[dict[str, Any]]]:
        """Records of every task by its name.

        Args:
            reader: its texts are answered by all tasks (but auxiliary ones), in one encoder pass. None: each task answers its own reader's,
                given by `merge_inference_readers`.
            output_dir: `OUTPUT_DIR/NAME/predictions.json` is written for each task.
            print_steps: kept for PALM's call; a joint prediction says nothing between.
        """
        found: dict[str, list[dict[str, Any]]] = {}
        asked = {name: trainer for name, trainer in self.trainers.items() if trainer.task.answers}
        folders = {name: None if output_dir is None else Path(output_dir) / name for name in asked}
        if isinstance(reader, TextReader):
            together = [name for name, trainer in asked.items() if trainer.task.has_kind]
            found = predict(self._session.ready, reader.examples, together, lambda done, total: None)
            for name, folder in folders.items():
                if folder is not None and name in found:
                    path = write_predictions(folder, self._session.ready.tasks[name].kind, found[name])
                    self._session.say(f"Predictions saved at {path}")
        for name, trainer in asked.items():
            if name not in found:  # reads otherwise, or has a head that the user wrote
                if reader is not None:
                    trainer.task.predict_reader = reader
                found[name] = trainer.predict(folders[name], print_steps)
        return found

    # -- readers ------------------------------------------------------------------------------------------------------

    def _by_name(self, readers: Readers) -> dict[str, Reader]:
        if isinstance(readers, Mapping):
            unknown = next((name for name in readers if name not in self.trainers), None)
            if unknown is not None:
                raise WiringError(
                    f"there is no trainer '{unknown}' for the reader of that name. There are: {', '.join(self.trainers)}."
                )
            return dict(readers)
        if len(readers) != len(self.trainers):
            raise WiringError(
                f"{len(readers)} readers for {len(self.trainers)} trainers ({', '.join(self.trainers)}). Pass one for each, in this order."
            )
        return dict(zip(self.trainers, readers, strict=True))

    def _take(self, given: Mapping[str, Reader]) -> None:
        for name, trainer in self.trainers.items():
            if name not in given:
                raise WiringError(f"trainer '{name}' got no reader. Readers were given for: {', '.join(given)}.")
            reader = check_phase(given[name], name)
            if reader.num_epochs is not None:
                raise WiringError(
                    f"trainer '{name}': its reader says num_epochs={reader.num_epochs}, but the MultiHeadTrainer plans the epochs. "
                    "Load its data with num_epochs=None."
                )
            trainer.task.reader = reader

    def _take_evaluation(self, readers: Readers) -> None:
        for name, reader in self._by_name(readers).items():
            self.trainers[name].task.evaluation_reader = reader

    def _tell_plan(self, num_epochs: float) -> None:
        plan, say = self._session.plan, self._session.say
        for data, members in by_reader(self._session.tasks).items():
            quota = plan.mixing.quotas[data]
            epochs = quota / plan.wired.sources[data].sampler.batches_per_epoch
            for task in members:
                if not task.auxiliary:
                    say(f"{task.name}: expected train steps {quota}.")
                say(f"{task.name}: {epochs:.1f} epochs of its data.")
                asked = num_epochs * task.mix_ratio
                if plan.policy == "mix_ratio" and epochs > _FAR_FROM_PLANNED * asked:
                    warnings.warn(
                        f"trainer '{task.name}' goes {epochs:.1f} times over its data, not {asked:g}: PALM's mix ratio counts epochs of '{plan.reference}'. "
                        "Write per_task_epochs=True for as many of its own, or lower its mix_ratio.",
                        stacklevel=3,
                    )
        say(f"Estimated overall train steps {len(plan.mixing)}.")

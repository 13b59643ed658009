"""Trainer of one task, built from a reader, a backbone and a head."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from palm_trainer.api.backbone.base_backbone import Backbone as UserBackbone
from palm_trainer.api.custom.encoder import CustomEncoder, engine_backbone
from palm_trainer.api.custom.reader import is_custom_reader
from palm_trainer.api.declarations import AnyHead, Batch, LossVar, Rejection, Task, loss_arrays
from palm_trainer.api.fit_checks import check_rejection
from palm_trainer.api.head.base_head import Head as UserHead
from palm_trainer.api.phase import Phase
from palm_trainer.api.prediction import predict, write_predictions
from palm_trainer.api.raw_prediction import (
    Progress,
    batches_of,
    predict_from_custom_reader,
    predict_with_custom_head,
    raw_outputs,
)
from palm_trainer.api.reader.base_reader import Reader
from palm_trainer.api.reader.text_reader import TextReader
from palm_trainer.api.session import PRINT, Say, Session
from palm_trainer.api.trainer_base import TrainerCalls
from palm_trainer.errors import ConfigError, WiringError
from palm_trainer.evaluation.evaluate import Metrics
from palm_trainer.model.encoders import Encoder
from palm_trainer.model.heads import head_class
from palm_trainer.tasks import task_kind

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


class Trainer(TrainerCalls):
    """Trains one task and predicts with it, alone or as a member of a MultiHeadTrainer.

    Args:
        name: name of the task in logs, files and the service. `Parse` answers from `intent` (classify) and
            from `slot` or `slots` (sequence_label).
        mix_ratio: frequency of its batches, relative to other trainers.
        reuse_head_with: name of another trainer whose head it shares.
        weight: weight of its loss in the sum.
        say: called with each line of the log.

    Raises:
        ConfigError: a name, weight or mix_ratio that is not valid.
    """

    def __init__(
        self,
        name: str,
        mix_ratio: float = 1.0,
        reuse_head_with: str | None = None,
        *,
        weight: float = 1.0,
        say: Say = PRINT,
    ) -> None:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigError(
                f"Trainer: name must be letters, digits, _ and -, and start with a letter or _, got {name!r}. Rename it."
            )
        if not weight > 0:
            raise ConfigError(f"trainer '{name}': weight must be above 0, got {weight}. Leave the trainer out instead.")
        self.task = Task(name, weight=float(weight), reuse_head_with=reuse_head_with)
        self.mix_ratio = mix_ratio
        self.held = False
        super().__init__(Session([self.task], say))

    # -- properties ---------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Name of the task."""
        return self.task.name

    @property
    def mix_ratio(self) -> float:
        """Frequency of its batches, relative to other trainers."""
        return self.task.mix_ratio

    @mix_ratio.setter
    def mix_ratio(self, value: float) -> None:
        if not value > 0:
            raise ConfigError(
                f"trainer '{self.name}': mix_ratio must be above 0, got {value}. Leave the trainer out instead."
            )
        self.task.mix_ratio = float(value)

    @property
    def num_examples(self) -> int:
        """Number of training examples."""
        return self.task.fitted.num_examples

    @property
    def num_epochs(self) -> float:
        """Planned epochs of the reference trainer's data."""
        return self._session.plan.epochs

    @property
    def steps_pur_epoch(self) -> int:
        """Batches of one epoch."""
        return self._session.source_of(self.task).sampler.batches_per_epoch

    @property
    def cur_train_step(self) -> int:
        """Number of steps that trained this task."""
        return self._session.steps_of(self.task)

    @property
    def cur_train_epoch(self) -> int:
        """Epoch of its data, from 0."""
        return self._session.source_of(self.task).sampler.epoch

    # -- training -----------------------------------------------------------------------------------------------------

    def build_forward(self, backbone: Encoder | UserBackbone, task_head: AnyHead) -> LossVar:
        """Declare backbone and head, and return the loss for Adam. Raises WiringError when they do not fit."""
        self.task.backbone = engine_backbone(backbone)
        self.task.head = task_head
        return Session([self.task], self._session.given_say).loss_var()

    def set_as_aux(self) -> None:
        """Mark the task as auxiliary.

        It trains the encoder, but does not decide the end of the training. It is not evaluated and not exported.
        """
        self.task.auxiliary = True

    def set_out_of_scope(
        self, reader: TextReader | None = None, *, false_rejection: float | None = None, score: str | None = None
    ) -> None:
        """Add out-of-scope detection to a classifier, in saved runs and bundles.

        The threshold is calibrated on the data of `set_evaluator`.

        Args:
            reader: reader of out-of-scope text, which is not trained on. It selects the score that detects this text best.
            false_rejection: share of dev texts that may be rejected. None: 0.05.
            score: `mahalanobis`, `energy` or `softmax`. None: selected by `reader`, and without it mahalanobis.

        Raises:
            WiringError: a head other than `palm.head.Classify`, or a reader without data.
            ConfigError: a share or score that is not valid.
        """
        settings = check_rejection(self.task, false_rejection, score)
        if reader is not None and not reader.examples:
            raise WiringError(
                f"trainer '{self.name}': its {type(reader).__name__} has no data yet. Call load_data first."
            )
        self.task.rejection = Rejection(settings, reader)

    def fit_reader(self, reader: Reader, phase: Phase = "train") -> Iterator[Batch]:
        """Set the data, check the components, and return the batches of all steps for `train_one_step`.

        The training lasts `reader.num_epochs` epochs (None: one). Errors are raised before the first step.

        Raises:
            WiringError: components that do not fit.
            DataError: data that does not fit the head.
        """
        if phase == "predict":
            self.task.predict_reader = reader
            return self._predict_batches()
        self._check_standalone("fit_reader", "fit_readers_with_mixratio")
        self.task.reader = check_phase(reader, self.name)
        self._session.fit(self.name, reader.num_epochs or 1)
        self._session.say("ok!")
        return self._batches()

    def train(self, print_steps: int = 5) -> None:
        """Train to the end of the planned epochs, with a log line every `print_steps` steps."""
        self._check_standalone("train", "train")
        self._train(print_steps, lambda view, speed: view.line(speed))

    def train_one_step(self, batch: Batch) -> dict[str, npt.NDArray[np.float64]]:
        """Train one step on a batch of `fit_reader`, and return `{NAME.loss: value}`.

        Runs are saved and evaluated as in `train`.
        """
        self._check_standalone("train_one_step", "train_one_step")
        step = self._session.train_on(batch)
        return loss_arrays(step)

    def get_one_batch(self, phase: Phase = "train") -> Batch:
        """Return the next batch of the training data, or the first batch of the data to predict."""
        return self._session.draw() if phase == "train" else next(self._predict_batches())

    def set_evaluator(self, reader: Reader, eval_steps: int | None = None) -> None:
        """Evaluate in training, every `eval_steps` steps or (None) after each epoch.

        `set_saver` keeps the best weights in `best/`.
        """
        self.task.evaluation_reader = reader
        self._session.set_evaluator(eval_steps)

    def evaluate(self, reader: Reader | None = None) -> Metrics:
        """Return the metrics on a labelled file (None: that of `set_evaluator`), decoded as in the service."""
        self.task.evaluation_reader = reader or self.task.evaluation_reader
        return self._session.evaluate()

    # -- prediction ---------------------------------------------------------------------------------------------------

    def build_predict_forward(self, pred_backbone: Encoder | UserBackbone, pred_head: AnyHead) -> dict[str, str]:
        """Declare backbone and head for prediction, and return the output names by tensor.

        A trained model is not changed.

        Raises:
            WiringError: an encoder other than the trained one.
        """
        trained = self.task.backbone
        backbone = engine_backbone(pred_backbone)
        if trained is None:
            self.task.backbone = backbone
            self.task.head = pred_head
            Session([self.task], self._session.given_say).loss_var()
        elif _shape(trained) != _shape(backbone):
            raise WiringError(
                f"trainer '{self.name}': the backbone for prediction must have the configuration of the trained one. Build both from one configuration."
            )
        if isinstance(pred_head, UserHead):
            return self._output_names(pred_head.eval().outputs_attr)
        is_answered = task_kind(pred_head.kind).is_answered
        tensors = head_class(pred_head.kind).tensors if is_answered else ("logits",)
        return self._output_names(tensors)

    def _output_names(self, tensors: Iterable[str]) -> dict[str, str]:
        """Return the name in the graph of each tensor of the head."""
        names = {}
        for tensor in tensors:
            names[tensor] = f"{self.name}.{tensor}"
        return names

    def predict(self, output_dir: str | Path | None = None, print_steps: int = 1000) -> list[dict[str, Any]]:
        """Return one record per example of the reader for `predict`, in the order of the file.

        Args:
            output_dir: directory for `predictions.json` in PALM's format. None: not written.
            print_steps: batches between two log lines.

        Raises:
            WiringError: no trained or loaded model, or no reader.
        """
        reader = self._to_predict()
        report = Progress(reader.batch_size, print_steps, self._session.say)
        if self.task.has_kind and isinstance(reader, TextReader) and not is_custom_reader(reader):
            records = predict(self._session.ready, reader.examples, (self.name,), report)[self.name]
        elif self.task.custom_head is not None:
            return predict_with_custom_head(self._session, self.task, reader, report, output_dir)
        else:
            records = predict_from_custom_reader(self._session, self.task, reader, report)
        if output_dir is not None:
            kind = self._session.ready.tasks[self.name].kind
            self._session.say(f"Predictions saved at {write_predictions(Path(output_dir), kind, records)}")
        return records

    def predict_one_batch(self, batch: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[np.float32]]:
        """Return the raw tensors of the head by name (`logits`), for classes also `probs`. `predict` decodes them."""
        return raw_outputs(self._session, self.task, batch)

    def reset_buffer(self) -> None:
        """Remove the kept records of a custom head. Other heads keep none between calls of `predict`."""
        if self.task.custom_head is not None:
            self.task.custom_head.reset()

    def _predict_batches(self) -> Iterator[Batch]:
        return batches_of(self._session, self.task, self._to_predict())

    def _to_predict(self) -> Reader:
        if self.task.predict_reader is None:
            raise WiringError(
                f"trainer '{self.name}' has no data to predict. Call fit_reader(reader, phase='predict') first."
            )
        return self.task.predict_reader

    def _check_standalone(self, call: str, instead: str) -> None:
        if self.held:
            raise WiringError(
                f"trainer '{self.name}' is held by a MultiHeadTrainer, so {call} would train it without the others. Call the MultiHeadTrainer's {instead}."
            )

    def join(self, session: Session) -> None:
        """Share the session of a MultiHeadTrainer. Raises WiringError for a member of another one."""
        if self.held:
            raise WiringError(f"trainer '{self.name}' is held by a MultiHeadTrainer already. Make a new Trainer.")
        self.held = True
        self._session = session


def check_phase(reader: Reader, name: str) -> Reader:
    """Return a reader of training data. Raises WiringError for anything else."""
    if not isinstance(reader, Reader):
        raise WiringError(
            f"trainer '{name}': reader must be a Reader, got {reader!r}. Pass one of palm.reader, such as ClassifyReader(vocab_path, max_len)."
        )
    if reader.phase != "train":
        raise WiringError(
            f"trainer '{name}': the phase of its reader must be 'train', got '{reader.phase}'. Create it with phase='train'."
        )
    if not reader.batch_size:
        raise WiringError(
            f"trainer '{name}': its {type(reader).__name__} has no data yet. Call load_data(FILE, batch_size) first."
        )
    return reader


def _shape(backbone: Encoder) -> dict[str, Any]:
    if isinstance(backbone, CustomEncoder):
        return {"type": type(backbone.encoder), "outputs": backbone.outputs_attr}
    settings: dict[str, Any] = backbone.encoder.config.to_dict()  # type: ignore[union-attr,operator]
    return settings

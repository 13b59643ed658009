"""The calls that Trainer and MultiHeadTrainer have in common."""

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from palm_serve.bundle.manifest import Manifest
from palm_trainer.api.compat import accept_unused
from palm_trainer.api.declarations import Backward, Batch, TaskStep, read_options
from palm_trainer.api.export_bundle import export
from palm_trainer.api.optimizer.base_optimizer import Optimizer
from palm_trainer.api.save_run import Saver
from palm_trainer.api.session import Session
from palm_trainer.errors import ConfigError
from palm_trainer.model.encoders import WeightsReport
from palm_trainer.training.loop import Step


class TrainerCalls:
    """What can be asked of any trainer, once its forward pass is declared."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def build_backward(
        self,
        optimizer: Optimizer,
        weight_decay: float | None = None,
        use_ema: bool = False,
        ema_decay: float | None = None,
        *,
        device: str = "auto",
        precision: str = "auto",
        options: Mapping[str, Any] | None = None,
        **train_options: Any,
    ) -> None:
        """Take the optimizer and the settings of the training.

        Args:
            optimizer: `Adam`, or one of your own, of this trainer's loss.
            weight_decay: of the matrices, decoupled (AdamW); None: none. Biases, layer norms, embeddings and CRF scores do not decay.
            use_ema: evaluate and save with the moving average of the weights.
            ema_decay: share of the average that a step keeps; None: 0.9999.
            device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
            precision: `auto`, `fp32`, `bf16`, `fp16`.
            options: keys of `[train]` in a configuration, such as
                `{"regularization": {"r_drop": 1.0}, "balancing": {"method": "uncertainty"}}`.
            train_options: the same as keyword arguments, such as `mixing="temperature"`, `accumulate_steps=2` or
                `checkpoints={"patience": 3}`. Keys that are arguments of other calls are refused.

        Raises:
            WiringError: an optimizer of another loss.
            ConfigError: a value that is not valid, or an option that does not fit.
        """
        decay = (0.9999 if ema_decay is None else ema_decay) if use_ema else None
        if decay is not None and not 0.0 < decay < 1.0:
            raise ConfigError(
                f"build_backward: ema_decay is {decay}, but is between 0 and 1. 0.999 suits short trainings."
            )
        if weight_decay is not None and weight_decay < 0:
            raise ConfigError(f"build_backward: weight_decay is {weight_decay}, but is 0 or more. 0.01 suits most.")
        doubled = sorted(train_options.keys() & (options or {}).keys())
        if doubled:
            raise ConfigError(
                f"build_backward: {', '.join(doubled)} must be set once, got an argument and an option. Remove one."
            )
        settings = read_options(optimizer, {**(options or {}), **train_options})
        self._session.set_backward(Backward(optimizer, weight_decay or 0.0, decay, device, precision, settings))

    @accept_unused(convert="model_path")
    def load_pretrain(self, model_path: str | Path) -> WeightsReport:
        """Copy pretrained weights into the backbone, and return what matched.

        Args:
            model_path: a directory (also one whose weights are in `params/`), a known name, or a Hugging Face id.

        Raises:
            PalmError: no weights there, or none that fits.
        """
        return self._session.load_pretrain(str(model_path))

    def load_ckpt(self, model_path: str | Path, *, resume: bool = False) -> None:
        """Load the weights of a checkpoint (`.../ckpt.step300`) or of a run directory.

        Args:
            model_path: its directory.
            resume: also optimizer, counters and the order of the batches: training goes on as if it had not stopped.

        Raises:
            CheckpointError: missing, damaged, without this trainer's task, or with other labels.
        """
        self._session.load_checkpoint(Path(model_path), resume=resume)

    @accept_unused(convert="model_path")
    def load_predict_model(self, model_path: str | Path) -> None:
        """Load a checkpoint for prediction, as `load_ckpt` does. This is PALM's name."""
        self.load_ckpt(model_path)

    def set_saver(self, save_path: str | Path, save_steps: int, save_type: str = "ckpt") -> None:
        """Save every `save_steps` steps, and at the end.

        `ckpt` writes `SAVE_PATH/ckpt.stepN`, and `predict` writes `SAVE_PATH/pred.stepN`, which palm-export reads.
        SAVE_PATH itself becomes such a run, too. Its `best/` is the best on the evaluation readers, or the end of the
        training without such readers. With them it is calibrated, as a run of `palm-train run` is. `ckpt` directories
        may be trained on, so they are never calibrated.

        Args:
            save_path: directory of the checkpoints.
            save_steps: steps between them.
            save_type: `ckpt`, `predict` or `ckpt,predict`.
        """
        self._session.set_saver(Saver.of(save_path, save_steps, save_type))

    def save(self, path: str | Path) -> None:
        """Write a run directory: `palm-export PATH`, `palm-train evaluate PATH` and `palm-train predict PATH` read it."""
        self._session.save(Path(path))
        self._session.say(f"predict model has been saved at {path}")

    def export(self, path: str | Path, *, precision: str = "auto", overwrite: bool = False) -> Manifest:
        """Write a bundle for palm-serve, as palm-export does for a run, and return its manifest.

        Heads and backbones of your own are exported so.

        Args:
            path: a directory that does not exist, or with `overwrite` a bundle.
            precision: `auto` or `fp32`, as of palm-export.
            overwrite: replace the bundle that is there.

        Raises:
            ExportError: what a server could not decode, or cannot be traced to ONNX.
            ParityError: the graph does not answer as the model does, on the evaluation readers or else the training data.
        """
        return export(self._session, Path(path), precision=precision, overwrite=overwrite)

    def _batches(self) -> Iterator[Batch]:
        """Yield as many batches as there are steps left. They come in the plan's order, also when several are drawn before training."""
        loop = self._session.loop
        for step in range(loop.step, loop.total_steps):
            if not self._session.run.out_of_patience:
                yield self._session.draw(step)

    def _train(self, print_steps: int, line: Callable[[TaskStep, float], str]) -> list[Step]:
        """Run to the end, with a log line every `print_steps` steps."""
        session, steps = self._session, []
        begin, since = time.perf_counter(), 0
        for step in session.steps():
            steps.append(step)
            since += 1
            if step.step % max(1, print_steps) == 0:
                speed = since / max(time.perf_counter() - begin, 1e-9)
                for view in session.views(step):
                    session.say(line(view, speed))
                begin, since = time.perf_counter(), 0
            for name in session.just_finished(step):
                session.say(f"{name} train finish!")
        return steps

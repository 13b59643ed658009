"""The one training loop. It yields what happened; callers print, evaluate and save.

One step: the mixing policy names a data set, its sampler a batch, one encoder pass answers all tasks of that data set, their losses are
combined, and the optimizer moves what got a gradient (heads that the batch does not train stay as they are).

The batch may be cut into parts, one after the other in one process (accumulation) or side by side in several. Every loss is divided by the
number of the task's labels in the whole batch, so that the sum of the parts' gradients is the gradient of the batch.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from palm_trainer.data.dataset import TrainingBatch
from palm_trainer.errors import PalmError
from palm_trainer.model.heads import Head
from palm_trainer.model.heads.base import LossSum
from palm_trainer.model.multi_task import MultiTaskModel
from palm_trainer.training.balancing import Balancing
from palm_trainer.training.distillation import Distillation
from palm_trainer.training.mixing import Mixing
from palm_trainer.training.optimization.ema import Ema
from palm_trainer.training.optimization.schedules import Schedule
from palm_trainer.training.precision import TrainingPrecision
from palm_trainer.training.processes import SINGLE_PROCESS, Processes
from palm_trainer.training.regularization import PackedDropout, Regularization, agreement_loss
from palm_trainer.training.source import Source


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step: number from 1, data set, mean loss of each task, rate of the encoder, examples, seconds."""

    step: int
    data: str
    losses: Mapping[str, float]
    learning_rate: float
    examples: int
    seconds: float


class TrainingLoop:
    """Runs the steps of one training.

    Args:
        model: in any mode; the loop sets train mode at each step.
        sources: by data set name.
        mixing: order of the data sets.
        optimizer: its groups carry `peak_lr`.
        schedule: factor on the peak rates.
        balancing: how losses become one.
        precision: device and autocast dtype.
        max_grad_norm: global norm that gradients are clipped to.
        ema: follows the parameters; see `averaged`.
        regularization: what else a step does against learning by heart.
        distillation: how the answers of teachers count, where batches hold some.
        accumulate: parts that a process cuts its share of a batch into.
        processes: that train together.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        sources: Mapping[str, Source],
        mixing: Mixing,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        balancing: Balancing,
        precision: TrainingPrecision,
        max_grad_norm: float = 1.0,
        *,
        ema: Ema | None = None,
        regularization: Regularization | None = None,
        distillation: Distillation | None = None,
        accumulate: int = 1,
        processes: Processes = SINGLE_PROCESS,
    ) -> None:
        self.model = model
        self.sources = sources
        self.mixing = mixing
        self.optimizer = optimizer
        self.step = 0
        self._schedule = schedule
        self._balancing = balancing
        self.precision = precision
        self._max_grad_norm = max_grad_norm
        self._ema = ema
        self._regularization = regularization or Regularization()
        self._distillation = distillation
        self._accumulate = accumulate
        self.processes = processes
        self._scaler = torch.amp.GradScaler(precision.device.type, enabled=precision.autocast == torch.float16)

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return len(self.mixing)

    def steps(self) -> Iterator[Step]:
        """Trains to the end, one step an item; may be left and entered again between steps."""
        while self.step < self.total_steps:
            name = self.mixing[self.step]
            yield self.train_on(name, *self.sources[name].parts(self._accumulate, self.processes))

    def train_on(self, name: str, *parts: TrainingBatch) -> Step:
        """One step on this process's parts of a batch of a data set."""
        begin = time.perf_counter()
        source = self.sources[name]
        factor = self._schedule(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        values, examples = self._gradients(name, parts, source.tasks)
        if values:
            self._scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._max_grad_norm)
            self._scaler.step(self.optimizer)
            self._scaler.update()
            self.optimizer.zero_grad(set_to_none=True)
            if self._ema is not None:
                self._ema.update()
        self.mixing.observe(name, values)
        self._balancing.observe(values)
        self.step += 1
        rate = self.optimizer.param_groups[0]["lr"]
        return Step(self.step, name, values, rate, examples, time.perf_counter() - begin)

    def _gradients(
        self, name: str, parts: Sequence[TrainingBatch], tasks: Sequence[str]
    ) -> tuple[dict[str, float], int]:
        """Sums the gradients of a step over its parts and the processes; the loss of each task that the batch has a label for, and its examples."""
        own = [sum(int(self.model.head(task).labels(part.targets[task])) for part in parts) for task in tasks]
        answered = [sum(self._answered(task, part) for part in parts) for task in tasks]
        *counts, examples = self.processes.sum([*own, *answered, sum(part.size for part in parts)])
        pairs = zip(tasks, counts[: len(own)], counts[len(own) :], strict=True)
        labels, taught = {}, {}
        for task, given, soft in pairs:
            if given or soft:
                labels[task], taught[task] = given, soft
        values = dict.fromkeys(labels, 0.0)
        for part in parts if labels else ():
            for task, loss in self._learn(part, tasks, (labels, taught), part.size / examples).items():
                values[task] += loss
        values = dict(zip(values, self.processes.sum(list(values.values())), strict=True))
        self._check_finite(values, name)
        self.processes.sum_gradients(p for group in self.optimizer.param_groups for p in group["params"])
        return values, round(examples)

    def _answered(self, task: str, part: TrainingBatch) -> int:
        """What teachers have answered of a part of a batch."""
        if self._distillation is None or task not in part.soft:
            return 0
        return self.model.head(task).count_soft_targets(part.soft[task])

    def _learn(
        self, part: TrainingBatch, tasks: Sequence[str], counts: Sequence[Mapping[str, float]], share: float
    ) -> dict[str, float]:
        """Adds the gradients of one part of a batch, which holds `share` of its examples; what it adds to the loss of each task."""
        noise = self._regularization.noise
        with nullcontext() if noise is None else noise.observed():
            losses = self._losses(part, tasks, *counts)
        self._balancing.backward(losses, self._scaler.scale, share)
        if noise is not None:
            with noise.applied():
                disturbed = self._losses(part, tasks, *counts)
            self._balancing.backward(disturbed, self._scaler.scale, share)
        return {task: float(loss.detach()) for task, loss in losses.items()}

    def _check_finite(self, losses: Mapping[str, float], data: str) -> None:
        """Stops before a loss that is no number spoils the weights."""
        for task, value in losses.items():
            if not math.isfinite(value):
                self.optimizer.zero_grad(set_to_none=True)
                raise PalmError(
                    f"loss of task '{task}' is {value} at step {self.step + 1} (data set {data}); lower train.learning_rate or use precision fp32. "
                    "What was saved before stands."
                )

    def _losses(
        self,
        batch: TrainingBatch,
        tasks: Sequence[str],
        labels: Mapping[str, float],
        taught: Mapping[str, float] = MappingProxyType({}),
    ) -> dict[str, Tensor]:
        """Summed loss of each task in `labels`, over the number that it gives: that of the step of which the batch is a part.

        `taught` gives the number of its teachers' answers likewise.
        """
        self.model.train()
        device, dtype = self.precision.device, self.precision.autocast
        guesses = any(self.model.head(task).corrupts_inputs for task in tasks)
        alpha = 0.0 if guesses else self._regularization.r_drop
        inputs = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.inputs.items()}
        if alpha:
            inputs = {name: torch.cat([tensor, tensor]) for name, tensor in inputs.items()}
        if self._regularization.word_dropout is not None and not guesses:
            inputs["input_ids"] = self._regularization.word_dropout(inputs["input_ids"])
        autocast = torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)
        with autocast, PackedDropout() if device.type == "cpu" else nullcontext():
            outputs = self.model(**inputs, tasks=tasks)
        losses = {}
        for task, count in labels.items():
            head = self.model.head(task)
            own = {tensor: outputs[f"{task}.{tensor}"] for tensor in head.tensors}
            targets = batch.targets[task].to(device, non_blocking=True)
            loss = self._agreeing(head, own, targets, alpha) if alpha else head.loss(own, targets)
            losses[task] = (
                loss.total / count if count else loss.total.detach()
            )  # no label: what only labels train has no gradient
            if self._distillation is not None and task in batch.soft:
                views = _halves(own) if alpha else [own]
                soft = batch.soft[task].to(device, non_blocking=True)
                losses[task] = self._distillation.combine_losses(losses[task], head, views, soft, taught.get(task, 0))
        return losses

    def _agreeing(self, head: Head, outputs: Mapping[str, Tensor], targets: Tensor, alpha: float) -> LossSum:
        """Loss of two passes over one batch, one behind the other in `outputs`; see `regularization.r_drop`."""
        first, second = _halves(outputs)
        return agreement_loss(head, first, second, targets, alpha)

    def averaged(self) -> AbstractContextManager[None]:
        """The model as it is evaluated and saved: with the average of its weights, where there is one."""
        return nullcontext() if self._ema is None else self._ema.applied()

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on, the model's weights aside. Taken while `averaged`, it holds the trained weights."""
        generators: dict[str, Any] = {"cpu": torch.get_rng_state()}
        if self.precision.device.type == "cuda":
            generators["cuda"] = torch.cuda.get_rng_state(self.precision.device)
        first, *others = self.processes.gather(generators)
        return {
            "step": self.step,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "samplers": {name: source.sampler.state_dict() for name, source in self.sources.items()},
            "mixing": self.mixing.state_dict(),
            "balancing": self._balancing.state_dict(),
            "generators": first,
            "other_generators": others,
            "ema": None if self._ema is None else self._ema.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any], *, averaged: bool = False) -> None:
        """Continues where `state_dict` was taken: the next steps are the same to the bit on the same machine.

        Args:
            state: what it gave.
            averaged: it was taken while `averaged`, and the model holds the weights of then.
        """
        self.step = state["step"]
        self.optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        for name, source in self.sources.items():
            source.sampler.load_state_dict(state["samplers"][name])
        self.mixing.load_state_dict(state.get("mixing", {}))  # checkpoints from before these two had a state hold none
        self._balancing.load_state_dict(state.get("balancing", {}))
        generators = [state["generators"], *state.get("other_generators", ())]
        if self.processes.rank < len(generators):  # else there are more processes than then, and this one keeps its own
            own = generators[self.processes.rank]
            torch.set_rng_state(own["cpu"])
            if "cuda" in own:
                torch.cuda.set_rng_state(own["cuda"], self.precision.device)
        if self._ema is not None:
            self._ema.load_state_dict(state["ema"])
            if averaged:
                self._ema.swap()


def _halves(outputs: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Outputs of two passes that stand one behind the other, apart."""
    halves = {name: value.chunk(2) for name, value in outputs.items()}
    return [{name: half[i] for name, half in halves.items()} for i in (0, 1)]

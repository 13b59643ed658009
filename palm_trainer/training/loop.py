"""The training loop. It yields an event for each step; callers print, evaluate and save.

In one step the mixing policy selects a data set and its sampler a batch. One encoder pass serves
all tasks of that data set, their losses are combined, and the optimizer updates every parameter
that has a gradient. Heads of other data sets stay as they are.

A batch may be divided into micro-batches, which run one after the other in one process
(accumulation) or in parallel in several processes. Every loss is divided by the number of the
task's labels in the whole batch, so that the gradients of the micro-batches add up to the gradient
of the batch.
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
from palm_trainer.model.heads import TaskHead
from palm_trainer.model.heads.base import LossSum
from palm_trainer.model.multi_task import MultiTaskModel
from palm_trainer.tensors import to_full_precision
from palm_trainer.training.balancing import Balancing
from palm_trainer.training.distillation import Distillation
from palm_trainer.training.mixing import Mixing
from palm_trainer.training.optimization.ema import Ema
from palm_trainer.training.optimization.schedules import Schedule
from palm_trainer.training.precision import TrainingPrecision
from palm_trainer.training.processes import SINGLE_PROCESS, Processes
from palm_trainer.training.quantization import Quantization
from palm_trainer.training.regularization import PackedDropout, Regularization, agreement_loss
from palm_trainer.training.source import Source


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step.

    Args:
        step: number of the step, from 1.
        data: name of the data set.
        losses: mean loss by task.
        learning_rate: of the encoder.
        examples: in the batch.
        seconds: duration.
    """

    step: int
    data: str
    losses: Mapping[str, float]
    learning_rate: float
    examples: int
    seconds: float


class TrainingLoop:
    """Runs the steps of one training.

    Args:
        model: the loop sets its train mode in each step.
        sources: by name of the data set.
        mixing: order of the data sets.
        optimizer: its parameter groups have a `peak_lr`.
        schedule: factor on the peak learning rates.
        balancing: combines the losses of several tasks.
        precision: device and autocast dtype of the encoder. Heads compute in fp32.
        max_grad_norm: maximum global norm of the gradients.
        ema: average of the parameters, see `averaged`.
        quantization: rounding of the weights, see `averaged`.
        regularization: regularization methods.
        distillation: weight of the soft targets, for batches that have some.
        accumulate: micro-batches into which each process divides its share of a batch.
        processes: processes that train together.
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
        quantization: Quantization | None = None,
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
        self._quantization = quantization
        self._regularization = regularization or Regularization()
        self._distillation = distillation
        self.accumulate = accumulate
        self.processes = processes
        self._scaler = torch.amp.GradScaler(precision.device.type, enabled=precision.autocast == torch.float16)

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return len(self.mixing)

    def steps(self) -> Iterator[Step]:
        """Train to the end, one step for each item.

        Iteration may stop and continue between steps.
        """
        while self.step < self.total_steps:
            name = self.mixing[self.step]
            yield self.train_on(name, *self.sources[name].micro_batches(self.accumulate, self.processes))

    def train_on(self, name: str, *micro_batches: TrainingBatch) -> Step:
        """Run one step.

        Args:
            name: name of the data set.
            micro_batches: this process's micro-batches.

        Raises:
            PalmError: a loss is not finite.
        """
        start_time = time.perf_counter()
        source = self.sources[name]
        factor = self._schedule(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        losses, examples = self._gradients(name, micro_batches, source.tasks)
        if losses:
            self._update_parameters()
        self.mixing.observe(name, losses)
        self._balancing.observe(losses)
        self.step += 1
        learning_rate = self.optimizer.param_groups[0]["lr"]
        return Step(self.step, name, losses, learning_rate, examples, time.perf_counter() - start_time)

    def _update_parameters(self) -> None:
        self._scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._max_grad_norm)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self._ema is not None:
            self._ema.update()

    def _gradients(
        self, name: str, micro_batches: Sequence[TrainingBatch], tasks: Sequence[str]
    ) -> tuple[dict[str, float], int]:
        """Compute the gradients of a step, summed over its micro-batches and the processes.

        Returns:
            Loss of each task that has a label or soft target in the batch, and the number of
            examples.
        """
        label_counts, soft_counts, examples = self._count_targets(micro_batches, tasks)
        losses = dict.fromkeys(label_counts, 0.0)
        for micro_batch in micro_batches if label_counts else ():
            batch_losses = self._learn(micro_batch, tasks, label_counts, soft_counts, micro_batch.size / examples)
            for task, loss in batch_losses.items():
                losses[task] += loss
        losses = dict(zip(losses, self.processes.sum(list(losses.values())), strict=True))
        self._check_finite(losses, name)
        parameters: list[torch.nn.Parameter] = []
        for group in self.optimizer.param_groups:
            parameters += group["params"]
        self.processes.sum_gradients(parameters)
        return losses, round(examples)

    def _count_targets(
        self, micro_batches: Sequence[TrainingBatch], tasks: Sequence[str]
    ) -> tuple[dict[str, float], dict[str, float], float]:
        """Count over all processes: labels and soft targets of each task that has some, and examples."""
        counts: list[float] = []
        for task in tasks:
            head = self.model.head(task)
            counts.append(sum(int(head.labels(batch.targets[task])) for batch in micro_batches))
        for task in tasks:
            counts.append(sum(self._count_soft_targets(task, batch) for batch in micro_batches))
        counts.append(sum(batch.size for batch in micro_batches))
        *task_counts, examples = self.processes.sum(counts)
        label_counts = {}
        soft_counts = {}
        for task, labels, soft_targets in zip(tasks, task_counts[: len(tasks)], task_counts[len(tasks) :], strict=True):
            if labels or soft_targets:
                label_counts[task] = labels
                soft_counts[task] = soft_targets
        return label_counts, soft_counts, examples

    def _count_soft_targets(self, task: str, micro_batch: TrainingBatch) -> int:
        if self._distillation is None or task not in micro_batch.soft:
            return 0
        return self.model.head(task).count_soft_targets(micro_batch.soft[task])

    def _learn(
        self,
        micro_batch: TrainingBatch,
        tasks: Sequence[str],
        label_counts: Mapping[str, float],
        soft_counts: Mapping[str, float],
        fraction: float,
    ) -> dict[str, float]:
        """Add the gradients of a micro-batch with a `fraction` of the examples; return its addition to each loss."""
        noise = self._regularization.noise
        with nullcontext() if noise is None else noise.observed():
            losses, drift = self._losses(micro_batch, tasks, label_counts, soft_counts)
        if drift is not None:
            self._scaler.scale(drift * fraction).backward(retain_graph=True)
        self._balancing.backward(losses, self._scaler.scale, fraction)
        if noise is not None:
            with noise.applied():
                noisy_losses, _ = self._losses(micro_batch, tasks, label_counts, soft_counts)
            self._balancing.backward(noisy_losses, self._scaler.scale, fraction)
        loss_values = {}
        for task, loss in losses.items():
            loss_values[task] = float(loss.detach())
        return loss_values

    def _check_finite(self, losses: Mapping[str, float], data: str) -> None:
        """Stop before a loss that is not finite changes the weights."""
        for task, loss in losses.items():
            if not math.isfinite(loss):
                self.optimizer.zero_grad(set_to_none=True)
                raise PalmError(
                    f"loss of task '{task}' is {loss} at step {self.step + 1} (data set {data}); "
                    "lower train.learning_rate or use precision fp32. "
                    "Saved checkpoints stay valid."
                )

    def _losses(
        self,
        batch: TrainingBatch,
        tasks: Sequence[str],
        label_counts: Mapping[str, float],
        soft_counts: Mapping[str, float] = MappingProxyType({}),
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Compute the loss of each task in `label_counts`, and that of the encoder alone where there is one.

        Losses of tasks are sums over the batch, divided by the counts of the whole step. That of the encoder is a mean.
        """
        self.model.train()
        device = self.precision.device
        is_corrupted = any(self.model.head(task).corrupts_inputs for task in tasks)
        r_drop = 0.0 if is_corrupted else self._regularization.r_drop
        inputs = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.inputs.items()}
        if r_drop:
            inputs = {name: torch.cat([tensor, tensor]) for name, tensor in inputs.items()}
        whole_inputs = dict(inputs)
        if self._regularization.word_dropout is not None and not is_corrupted:
            inputs["input_ids"] = self._regularization.word_dropout(inputs["input_ids"])
        dtype = self.precision.autocast
        autocast = torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)
        with PackedDropout() if device.type == "cpu" else nullcontext():
            with autocast:
                features = self.model.encode(inputs)
                drifts = [loss.loss(whole_inputs, features) for loss in self._regularization.drifts]
                drift = torch.stack(drifts).sum() if drifts else None
            # Heads compute in fp32: bf16 would round a logit of 10 to a multiple of 0.06.
            outputs = self.model.answer(_in_full_precision(features), tasks)
        losses = {}
        for task, label_count in label_counts.items():
            head = self.model.head(task)
            head_outputs = self.model.head_outputs(task, outputs)
            targets = batch.targets[task].to(device, non_blocking=True)
            loss_sum = (
                self._r_drop_loss(head, head_outputs, targets, r_drop) if r_drop else head.loss(head_outputs, targets)
            )
            # Without labels, parameters that only labels train must have no gradient.
            losses[task] = loss_sum.total / label_count if label_count else loss_sum.total.detach()
            if self._distillation is not None and task in batch.soft:
                passes = _split_passes(head_outputs) if r_drop else [head_outputs]
                soft = batch.soft[task].to(device, non_blocking=True)
                losses[task] = self._distillation.combine_losses(
                    losses[task], head, passes, soft, soft_counts.get(task, 0)
                )
        return losses, drift

    def _r_drop_loss(self, head: TaskHead, outputs: Mapping[str, Tensor], targets: Tensor, weight: float) -> LossSum:
        """Return the R-Drop loss of two passes over one batch, which are concatenated in `outputs`."""
        first_outputs, second_outputs = _split_passes(outputs)
        return agreement_loss(head, first_outputs, second_outputs, targets, weight)

    def averaged(self) -> AbstractContextManager[None]:
        """Use the averaged or rounded weights, if there are any, for evaluating and saving the model."""
        if self._quantization is not None:  # never with an average
            return self._quantization.applied()
        return nullcontext() if self._ema is None else self._ema.applied()

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next step depends on, except the weights of the model.

        Within `averaged`, it holds the trained weights.
        """
        generators: dict[str, Any] = {"cpu": torch.get_rng_state()}
        if self.precision.device.type == "cuda":
            generators["cuda"] = torch.cuda.get_rng_state(self.precision.device)
        first_generators, *other_generators = self.processes.gather(generators)
        samplers = {}
        for name, source in self.sources.items():
            samplers[name] = source.sampler.state_dict()
        return {
            "step": self.step,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "samplers": samplers,
            "mixing": self.mixing.state_dict(),
            "balancing": self._balancing.state_dict(),
            "generators": first_generators,
            "other_generators": other_generators,
            "ema": None if self._ema is None else self._ema.state_dict(),
            "quantization": None if self._quantization is None else self._quantization.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any], *, averaged: bool = False) -> None:
        """Continue from a state. On the same machine, the next steps are identical to the bit.

        Args:
            state: result of `state_dict`.
            averaged: it was taken within `averaged`, and the model has the averaged weights.

        Raises:
            ValueError: it belongs to other parameters.
        """
        self.step = state["step"]
        self.optimizer.load_state_dict(state["optimizer"])
        _check_shapes(self.optimizer)
        self._scaler.load_state_dict(state["scaler"])
        for name, source in self.sources.items():
            source.sampler.load_state_dict(state["samplers"][name])
        # Old checkpoints have no state of these two.
        self.mixing.load_state_dict(state.get("mixing", {}))
        self._balancing.load_state_dict(state.get("balancing", {}))
        generators = [state["generators"], *state.get("other_generators", ())]
        if self.processes.rank < len(generators):  # else there are more processes now, and this one keeps its generator
            rank_generators = generators[self.processes.rank]
            torch.set_rng_state(rank_generators["cpu"])
            if "cuda" in rank_generators:
                torch.cuda.set_rng_state(rank_generators["cuda"], self.precision.device)
        if self._quantization is not None:
            self._quantization.load_state_dict(state["quantization"])
        if self._ema is not None:
            self._ema.load_state_dict(state["ema"])
            if averaged:
                self._ema.swap()


def _check_shapes(optimizer: torch.optim.Optimizer) -> None:
    """Check that a loaded state fits the parameters, which torch does not. Raises ValueError.

    The rows of the embedding that are trained are those of the data, which may have changed.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.dim() and value.shape != parameter.shape:
                raise ValueError(f"{name} has the shape {tuple(value.shape)}, a parameter {tuple(parameter.shape)}")


def _in_full_precision(features: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Cast what autocast computed to fp32. Token numbers stay as they are."""
    cast_features = {}
    for name, feature in features.items():
        cast_features[name] = to_full_precision(feature) if feature.is_floating_point() else feature
    return cast_features


def _split_passes(outputs: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Split the concatenated outputs of two passes."""
    first: dict[str, Tensor] = {}
    second: dict[str, Tensor] = {}
    for name, tensor in outputs.items():
        first[name], second[name] = tensor.chunk(2)
    return [first, second]

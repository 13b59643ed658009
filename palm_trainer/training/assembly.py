"""A model and its data -> the loop that trains it, as `[train]` says."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from palm_trainer.config.loader import Config, TrainConfig
from palm_trainer.config.rules import WHOLE_BATCH
from palm_trainer.data.example import Example
from palm_trainer.errors import ConfigError
from palm_trainer.model.encoders import encoder_layers, rate_factors
from palm_trainer.model.multi_task import MultiTaskModel, TrainedModel
from palm_trainer.training.balancing import Balancing, SharedParameters, Uncertainty, make_balancing
from palm_trainer.training.distillation import Distillation, load_teachers, soft_targets
from palm_trainer.training.loop import TrainingLoop
from palm_trainer.training.mixing import Mixing, make_mixing
from palm_trainer.training.optimization.adamw import HEAD_RATE_FACTOR, build_adamw
from palm_trainer.training.optimization.ema import Ema
from palm_trainer.training.optimization.schedules import SCHEDULES, Schedule
from palm_trainer.training.precision import TrainingPrecision, choose_precision
from palm_trainer.training.processes import SINGLE_PROCESS, Processes
from palm_trainer.training.regularization import AdversarialNoise, Regularization, WordDropout
from palm_trainer.training.source import Source

_UNCERTAINTY_RATE = 1e-2


def build_loop(
    config: Config,
    model: MultiTaskModel,
    sources: Mapping[str, Source],
    word_dropout: WordDropout | None,
    processes: Processes,
) -> TrainingLoop:
    """The loop, with the model on its device. Raises ConfigError for what several processes cannot do."""
    train = config.train
    method = train.balancing.method
    if processes.size > 1 and method in WHOLE_BATCH:
        raise ConfigError(
            f"train.balancing.method: '{method}' weighs the tasks' gradients of a whole batch, of which {processes.size} processes hold a part each. "
            "Train in one process, or choose fixed, uncertainty, dwa or random."
        )
    precision = choose_precision(processes.device(train.device), train.precision)
    model.to(precision.device)
    processes.broadcast_weights(model)
    processes.seed_other_ranks(train.seed)
    mixing = _mixing(config, {name: source.sampler.batches_per_epoch for name, source in sources.items()})
    layer_decay = train.regularization.layer_decay
    optimizer = build_adamw(
        model.backbone,
        dict(model.heads.items()),
        learning_rate=train.learning_rate,
        head_learning_rate=train.head_learning_rate or HEAD_RATE_FACTOR * train.learning_rate,
        task_learning_rates={name: task.learning_rate for name, task in config.tasks.items() if task.learning_rate},
        rate_factors=None if layer_decay == 1.0 else rate_factors(model.backbone, layer_decay),
        weight_decay=train.weight_decay,
    )
    schedule = SCHEDULES[train.schedule](len(mixing), round(train.warmup_ratio * len(mixing)))
    weights = {name: task.weight for name, task in config.tasks.items()}
    order = Order(sources, mixing, config.reference)
    return assemble_loop(train, weights, model, order, optimizer, schedule, precision, word_dropout, processes)


@dataclass(frozen=True)
class Order:
    """Data sets, whose batch comes next, and which of them counts the epochs."""

    sources: Mapping[str, Source]
    mixing: Mixing
    reference: str


def assemble_loop(
    train: TrainConfig,
    weights: Mapping[str, float],
    model: MultiTaskModel,
    order: Order,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    precision: TrainingPrecision,
    word_dropout: WordDropout | None = None,
    processes: Processes = SINGLE_PROCESS,
) -> TrainingLoop:
    """The loop of a configuration or of the Python API, with the balancing, regularization, distillation, clipping and averaging of `[train]`.

    Args:
        train: what the above is read from.
        weights: of the tasks' losses.
        model: on its device.
        order: of the batches.
        optimizer: of the model; weights that are learned are added to it.
        schedule: factor on its rates.
        precision: device and autocast dtype.
        word_dropout: made for the tokenizer.
        processes: that train together.
    """
    batches, quota = order.sources[order.reference].sampler.batches_per_epoch, order.mixing.quotas[order.reference]
    epoch_steps = max(1, round(batches / quota * len(order.mixing)))
    balancing = _balancing(train, weights, model, precision.device, epoch_steps)
    if isinstance(balancing, Uncertainty):
        rate = train.balancing.learning_rate or _UNCERTAINTY_RATE
        optimizer.add_param_group(balancing.parameter_group(rate))
    regularization = train.regularization
    return TrainingLoop(
        model,
        order.sources,
        order.mixing,
        optimizer,
        schedule,
        balancing,
        precision,
        train.max_grad_norm,
        ema=None if regularization.ema_decay is None else Ema(model, regularization.ema_decay),
        regularization=Regularization(regularization.r_drop, _noise(model, regularization.fgm), word_dropout),
        distillation=distillation(train),
        accumulate=train.accumulate_steps,
        processes=processes,
    )


def distillation(train: TrainConfig) -> Distillation | None:
    """How teachers are heeded, where there are some."""
    settings = train.distillation
    return Distillation(settings.temperature or 2.0, settings.weight or 0.5) if settings.teachers else None


def attach_soft_targets(
    train: TrainConfig,
    student: TrainedModel,
    sources: Mapping[str, Source],
    examples: Mapping[str, Sequence[Example]],
    device: str,
) -> list[str]:
    """Gives the data sets the answers of `train.distillation.teachers`, and returns the digests of the teachers.

    Raises:
        ConfigError, CheckpointError: a run cannot teach.
    """
    settings = distillation(train)
    if settings is None:
        return []
    teachers = load_teachers(train.distillation.teachers, student)
    place, temperature = choose_precision(device, "fp32").device, settings.temperature
    for name, source in sources.items():
        own, held = source.dataset, examples[name]
        own.attach_soft_targets(
            soft_targets(teachers, student, source.tasks, own.inputs, held, device=place, temperature=temperature)
        )
    return [teacher.digest for teacher in teachers]


def _balancing(
    train: TrainConfig, weights: Mapping[str, float], model: MultiTaskModel, device: torch.device, epoch_steps: int
) -> Balancing:
    settings = train.balancing
    last = encoder_layers(model.backbone).blocks[-1] if settings.method == "gradnorm" else []
    parameters = SharedParameters(
        encoder=_trained(model.backbone.parameters()),
        last_layer=_trained(last),
        heads={name: _trained(head.parameters()) for name, head in model.heads.items()},
    )
    return make_balancing(
        settings.method,
        weights,
        parameters,
        device=device,
        epoch_steps=epoch_steps,
        seed=train.seed,
        learning_rate=settings.learning_rate,
        gradnorm_alpha=settings.gradnorm_alpha,
        dwa_temperature=settings.dwa_temperature,
        cagrad_c=settings.cagrad_c,
    )


def _trained(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    return [parameter for parameter in parameters if parameter.requires_grad]


def _mixing(config: Config, batches: Mapping[str, int]) -> Mixing:
    train = config.train
    return make_mixing(
        train.mixing,
        batches,
        reference=config.reference,
        epochs=train.epochs,
        seed=train.seed,
        ratios={name: data.mix_ratio for name, data in config.data.items()},
        own_epochs={name: data.epochs or train.epochs for name, data in config.data.items()},
        size_temperature=train.mixing_temperature,
    )


def _noise(model: MultiTaskModel, epsilon: float) -> AdversarialNoise | None:
    if not epsilon:
        return None
    table: nn.Module = model.backbone.encoder.get_input_embeddings()  # type: ignore[operator]
    return AdversarialNoise(table, epsilon)

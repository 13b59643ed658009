"""Put together the loop that trains a model on its data, as `[train]` says."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from torch import nn

from palm_trainer.config.loader import TrainConfig
from palm_trainer.config.mappings import select_keys
from palm_trainer.config.schema import WHOLE_BATCH
from palm_trainer.data.example import Example
from palm_trainer.errors import ConfigError
from palm_trainer.model.encoders import encoder_layers, freeze_layers, freeze_unused_rows, rate_factors
from palm_trainer.model.heads import TaskHead
from palm_trainer.model.multi_task import MultiTaskModel, TrainedModel
from palm_trainer.tasks import train_every_embedding
from palm_trainer.training.balancing import Balancing, SharedParameters, Uncertainty, make_balancing
from palm_trainer.training.distillation import (
    Distillation,
    HiddenStates,
    Teacher,
    hidden_states,
    load_teachers,
    soft_targets,
)
from palm_trainer.training.loop import TrainingLoop
from palm_trainer.training.mixing import Mixing, make_mixing
from palm_trainer.training.optimization.adamw import CRF_GROUP, HEAD_RATE_FACTOR, build_adamw
from palm_trainer.training.optimization.ema import Ema
from palm_trainer.training.optimization.schedules import SCHEDULES, Schedule
from palm_trainer.training.precision import choose_precision
from palm_trainer.training.processes import Processes
from palm_trainer.training.quantization import Quantization
from palm_trainer.training.regularization import AdversarialNoise, Anchor, Drift, Regularization, WordDropout
from palm_trainer.training.source import Source

MakeOptimizer: TypeAlias = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
"""Makes an optimizer of parameter groups."""

_UNCERTAINTY_RATE = 1e-2
_GROUP_KEYS = ("params", "lr", "peak_lr", "weight_decay", CRF_GROUP)
"""Keys of a parameter group that an optimizer of the user gets."""


@dataclass(frozen=True)
class Order:
    """The data sets, the order of their batches, and the data set whose passes are counted as epochs."""

    sources: Mapping[str, Source]
    mixing: Mixing
    reference: str


def order_sources(
    train: TrainConfig,
    sources: Mapping[str, Source],
    reference: str,
    ratios: Mapping[str, float],
    epochs_by_source: Mapping[str, float],
) -> Order:
    """Return the order of the batches as `train.mixing` says.

    Args:
        train: names the policy, the epochs and the seed.
        sources: by data set.
        reference: data set whose passes are counted as epochs.
        ratios: mix ratio of each data set, for `mix_ratio`.
        epochs_by_source: epochs of each data set, for `per_task_epochs`.
    """
    batches = {}
    for name, source in sources.items():
        batches[name] = source.sampler.batches_per_epoch
    mixing = make_mixing(
        train.mixing,
        batches,
        reference=reference,
        epochs=train.epochs,
        seed=train.seed,
        ratios=ratios,
        own_epochs=epochs_by_source,
        size_temperature=train.mixing_temperature,
    )
    return Order(sources, mixing, reference)


def prepare_encoder(
    train: TrainConfig, trained: TrainedModel, sources: Mapping[str, Source], *, freeze_rows: bool = True
) -> WordDropout | None:
    """Freeze what shall not be trained, and return the word dropout where `[train]` asks for it.

    Rows of the embedding that no training text holds are frozen too. A masked_lm task trains every row: it decodes
    with them, and some are drawn at random.

    Args:
        train: names what is frozen.
        trained: the model.
        sources: hold the training text.
        freeze_rows: False for an encoder or sources that are not the package's own.
    """
    backbone = trained.model.backbone
    word_dropout = (
        WordDropout.of(trained.tokenizer_json, train.regularization.word_dropout)
        if train.regularization.word_dropout
        else None
    )
    freeze_layers(backbone, blocks=train.freeze_layers, embeddings=train.freeze_embeddings)
    masked = train_every_embedding(trained.tasks.values())
    if freeze_rows and not train.freeze_embeddings and not masked:
        used = [source.dataset.piece_ids() for source in sources.values()]
        if word_dropout is not None:
            used.append(torch.tensor([word_dropout.stand_in]))
        freeze_unused_rows(backbone, torch.cat(used).unique())
    return word_dropout


def build_loop(
    train: TrainConfig,
    model: MultiTaskModel,
    order: Order,
    weights: Mapping[str, float],
    word_dropout: WordDropout | None,
    processes: Processes,
    *,
    task_learning_rates: Mapping[str, float] = MappingProxyType({}),
    make_optimizer: MakeOptimizer | None = None,
    schedule: Schedule | None = None,
    start: nn.Module | None = None,
    imitation: HiddenStates | None = None,
) -> TrainingLoop:
    """Return the loop, with the model on its device.

    Args:
        train: every key of `[train]`.
        model: is moved to its device.
        order: of the batches.
        weights: of the tasks' losses.
        word_dropout: of `prepare_encoder`.
        processes: that train together.
        task_learning_rates: of heads that have one of their own.
        make_optimizer: takes the parameter groups. None: AdamW.
        schedule: factor on the rates by step. None: as `train.schedule` says.
        start: encoder that the anchor holds to. None: that of the model, as it is now.
        imitation: of the vectors of a teacher.

    Raises:
        ConfigError: several processes cannot do what `[train]` asks for.
    """
    _check_balancing(train, processes)
    precision = choose_precision(processes.device(train.device), train.precision)
    model.to(precision.device)
    processes.broadcast_weights(model)
    processes.seed_other_ranks(train.seed)
    optimizer = _build_optimizer(train, model, task_learning_rates, make_optimizer)
    steps = len(order.mixing)
    balancing = _balancing(train, weights, model, precision.device, _epoch_steps(order))
    if isinstance(balancing, Uncertainty):
        optimizer.add_param_group(balancing.parameter_group(train.balancing.learning_rate or _UNCERTAINTY_RATE))
    drifts = _drifts(train, model.backbone if start is None else start, imitation, precision.device)
    regularization = train.regularization
    return TrainingLoop(
        model,
        order.sources,
        order.mixing,
        optimizer,
        schedule or SCHEDULES[train.schedule](steps, round(train.warmup_ratio * steps)),
        balancing,
        precision,
        train.max_grad_norm,
        ema=None if regularization.ema_decay is None else Ema(model, regularization.ema_decay),
        regularization=Regularization(regularization.r_drop, _noise(model, regularization.fgm), word_dropout, drifts),
        quantization=_quantization(train, model),
        distillation=distillation(train),
        accumulate=train.accumulate_steps,
        processes=processes,
    )


def _quantization(train: TrainConfig, model: MultiTaskModel) -> Quantization | None:
    """Return the rounding that the model is trained with. None: there is none."""
    student = train.distillation.student
    return Quantization(model) if student is not None and student.int8 else None


def _check_balancing(train: TrainConfig, processes: Processes) -> None:
    """Raise ConfigError for a balancing method that several processes cannot compute."""
    method = train.balancing.method
    if processes.size > 1 and method in WHOLE_BATCH:
        raise ConfigError(
            f"train.balancing.method: '{method}' weighs the tasks' gradients of a whole batch, "
            f"of which {processes.size} processes hold a part each. "
            "Train in one process, or choose fixed, uncertainty, dwa or random."
        )


def _build_optimizer(
    train: TrainConfig,
    model: MultiTaskModel,
    task_learning_rates: Mapping[str, float],
    make_optimizer: MakeOptimizer | None,
) -> torch.optim.Optimizer:
    layer_decay = train.regularization.layer_decay
    optimizer: torch.optim.Optimizer = build_adamw(
        model.backbone,
        _distinct_heads(model),
        learning_rate=train.learning_rate,
        head_learning_rate=train.head_learning_rate or HEAD_RATE_FACTOR * train.learning_rate,
        task_learning_rates=task_learning_rates,
        crf_learning_rate=train.crf_learning_rate,
        rate_factors=None if layer_decay == 1.0 else rate_factors(model.backbone, layer_decay),
        weight_decay=train.weight_decay,
    )
    if make_optimizer is not None:
        groups = []
        for group in optimizer.param_groups:
            groups.append(select_keys(group, _GROUP_KEYS))
        optimizer = make_optimizer(groups)
    return optimizer


def _distinct_heads(model: MultiTaskModel) -> dict[str, TaskHead]:
    """Return each head once, also where tasks share it."""
    heads: dict[str, TaskHead] = {}
    for name, head in model.heads.items():
        if not any(head is earlier for earlier in heads.values()):
            heads[name] = model.head(name)
    return heads


def _epoch_steps(order: Order) -> int:
    """Return the steps of the run in one epoch of the reference."""
    batches = order.sources[order.reference].sampler.batches_per_epoch
    return max(1, round(batches / order.mixing.quotas[order.reference] * len(order.mixing)))


def distillation(train: TrainConfig) -> Distillation | None:
    """Return how soft targets count in the loss, where there are teachers."""
    settings = train.distillation
    return Distillation(settings.temperature or 2.0, settings.weight or 0.5) if settings.teachers else None


def attach_soft_targets(
    train: TrainConfig,
    student: TrainedModel,
    sources: Mapping[str, Source],
    examples: Mapping[str, Sequence[Example]],
    device: str,
) -> list[Teacher]:
    """Give the data sets the soft targets of `train.distillation.teachers`. Return the teachers.

    Args:
        train: names the teachers.
        student: the model that is trained.
        sources: by data set.
        examples: of each source.
        device: that the teachers run on.

    Raises:
        ConfigError, CheckpointError: a teacher that cannot be used.
    """
    settings = distillation(train)
    if settings is None:
        return []
    teachers = load_teachers(train.distillation.teachers, student)
    torch_device = choose_precision(device, "fp32").device
    for name, source in sources.items():
        dataset = source.dataset
        dataset.attach_soft_targets(
            soft_targets(
                teachers,
                student,
                source.tasks,
                dataset.inputs,
                examples[name],
                device=torch_device,
                temperature=settings.temperature,
            )
        )
    return teachers


def imitate(train: TrainConfig, teachers: Sequence[Teacher], student: TrainedModel, device: str) -> HiddenStates | None:
    """Return the loss of a student's vectors of tokens, where the training is that of a student.

    Args:
        train: names the student.
        teachers: result of `attach_soft_targets`. The vectors are those of the first.
        student: the model that is trained.
        device: of the training.
    """
    if train.distillation.student is None or not teachers:
        return None
    return hidden_states(teachers[0].trained, student, choose_precision(device, "fp32").device)


def _balancing(
    train: TrainConfig, weights: Mapping[str, float], model: MultiTaskModel, device: torch.device, epoch_steps: int
) -> Balancing:
    settings = train.balancing
    last = encoder_layers(model.backbone).blocks[-1] if settings.method == "gradnorm" else []
    head_parameters = {}
    for name, head in model.heads.items():
        head_parameters[name] = _trained(head.parameters())
    parameters = SharedParameters(
        encoder=_trained(model.backbone.parameters()),
        last_layer=_trained(last),
        heads=head_parameters,
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


def _drifts(
    train: TrainConfig, start: nn.Module, imitation: HiddenStates | None, device: torch.device
) -> tuple[Drift, ...]:
    """Return the losses of the encoder alone."""
    drifts: list[Drift] = [] if imitation is None else [imitation]
    weight = train.regularization.anchor
    if weight:
        drifts.append(Anchor(start.to(device), weight))
    return tuple(drifts)


def _noise(model: MultiTaskModel, epsilon: float) -> AdversarialNoise | None:
    if not epsilon:
        return None
    table: nn.Module = model.backbone.encoder.get_input_embeddings()  # type: ignore[operator]
    return AdversarialNoise(table, epsilon)

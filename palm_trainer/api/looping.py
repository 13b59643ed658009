"""What was declared, planned and asked for -> the engine's loop, put together by the function that `palm-train run` uses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from palm_trainer.api.declarations import Task
from palm_trainer.api.fit_checks import by_reader
from palm_trainer.api.job_from_trainers import Wired
from palm_trainer.api.optimizer import Adam
from palm_trainer.api.optimizer.base_optimizer import Optimizer
from palm_trainer.api.reader.text_reader import TextReader
from palm_trainer.config.loader import TrainConfig
from palm_trainer.model.encoders import freeze_layers, freeze_unused_rows, rate_factors, unfreeze_rows
from palm_trainer.model.heads.classify import ClassifyHead
from palm_trainer.model.heads.match import MatchHead
from palm_trainer.training.assembly import Order, assemble_loop, attach_soft_targets
from palm_trainer.training.loop import TrainingLoop
from palm_trainer.training.mixing import PlannedMixing
from palm_trainer.training.optimization.adamw import build_adamw
from palm_trainer.training.precision import choose_precision
from palm_trainer.training.regularization import WordDropout


@dataclass(frozen=True)
class Backward:
    """What `build_backward` was told. `options` are among the defaults of `[train]`."""

    optimizer: Optimizer
    weight_decay: float
    ema_decay: float | None
    device: str
    precision: str
    options: TrainConfig


@dataclass
class Plan:
    """Data wired to a model, and the order of its batches."""

    wired: Wired
    mixing: PlannedMixing
    epochs: float
    reference: str
    done: dict[str, int] = field(default_factory=dict)


def train_section(output: Path, plan: Plan, backward: Backward | None, first: Task) -> TrainConfig:
    """A training as `[train]` would say it."""
    facts: dict[str, Any] = {
        "output": output,
        "epochs": plan.epochs,
        "batch_size": first.fitted.batch_size,
        "weight_decay": 0.0,
        "seed": first.fitted.seed,
    }
    if backward is not None:
        adam, options = backward.optimizer, backward.options
        facts |= {
            "learning_rate": adam.lr,
            "head_learning_rate": adam.head_lr,
            "weight_decay": backward.weight_decay,
            "balancing": options.balancing,
            "regularization": options.regularization.model_copy(update={"layer_decay": adam.layer_decay}),
            "distillation": options.distillation,
        }
    return TrainConfig.model_validate(facts)


def build_loop(tasks: Sequence[Task], plan: Plan, backward: Backward) -> TrainingLoop:
    """The loop, with the model on its device. Raises ConfigError and CheckpointError for options that cannot be met."""
    wired, adam = plan.wired, backward.optimizer
    model = wired.trained.model
    train = train_section(Path(), plan, backward, tasks[0])
    regularization = train.regularization.model_copy(update={"ema_decay": backward.ema_decay})
    train = train.model_copy(update={"max_grad_norm": adam.max_grad_norm, "regularization": regularization})
    _teach(train, wired, by_reader(tasks), backward.device)
    for head in model.heads.values():
        if isinstance(head, ClassifyHead | MatchHead):
            head.label_smoothing = regularization.label_smoothing
    word_dropout = _word_dropout(regularization.word_dropout, wired) if regularization.word_dropout else None
    precision = choose_precision(backward.device, backward.precision)
    model.to(precision.device)
    freeze_layers(model.backbone, blocks=adam.freeze_layers, embeddings=adam.freeze_embeddings)
    own_heads = {task.name: model.head(task.name) for task in tasks if task.reuse_head_with is None}
    optimizer: torch.optim.Optimizer = build_adamw(
        model.backbone,
        own_heads,
        learning_rate=adam.lr,
        head_learning_rate=adam.head_lr,
        rate_factors=None if adam.layer_decay == 1.0 else rate_factors(model.backbone, adam.layer_decay),
        weight_decay=backward.weight_decay,
    )
    if not isinstance(adam, Adam):
        keys = ("params", "lr", "peak_lr", "weight_decay")
        optimizer = adam.build([{key: group[key] for key in keys} for group in optimizer.param_groups])
    schedule = adam.lr_schedualer or (lambda step: 1.0)
    if hasattr(schedule, "fitted"):
        schedule = schedule.fitted(len(plan.mixing))
    weights = {task.name: task.weight for task in tasks}
    order = Order(wired.sources, plan.mixing, plan.reference)
    return assemble_loop(train, weights, model, order, optimizer, schedule, precision, word_dropout)


def _teach(train: TrainConfig, wired: Wired, groups: Mapping[str, Sequence[Task]], device: str) -> None:
    readers = {data: members[0].fitted for data, members in groups.items()}
    examples = {data: reader.examples for data, reader in readers.items() if isinstance(reader, TextReader)}
    attach_soft_targets(train, wired.trained, wired.sources, examples, device)


def _word_dropout(share: float, wired: Wired) -> WordDropout:
    """The option, with the row of the stand-in among those that train."""
    trained = wired.trained
    found = WordDropout.of(trained.tokenizer_json, share)
    if not any(info.kind == "masked_lm" for info in trained.tasks.values()):  # which trains every row
        unfreeze_rows(trained.model.backbone)
        used = [source.dataset.piece_ids() for source in wired.sources.values()]
        freeze_unused_rows(trained.model.backbone, torch.cat([torch.tensor([found.stand_in]), *used]).unique())
    return found

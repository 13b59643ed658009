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
from palm_trainer.model.encoders import freeze_layers, freeze_unused_rows, unfreeze_rows
from palm_trainer.model.heads.classify import ClassifyHead
from palm_trainer.model.heads.match import MatchHead
from palm_trainer.tasks import train_every_embedding
from palm_trainer.training.assembly import Order, attach_soft_targets, build_loop
from palm_trainer.training.loop import TrainingLoop
from palm_trainer.training.mixing import PlannedMixing
from palm_trainer.training.processes import SINGLE_PROCESS
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


def loop_of(tasks: Sequence[Task], plan: Plan, backward: Backward) -> TrainingLoop:
    """The loop, with the model on its device. Raises ConfigError and CheckpointError for options that cannot be met."""
    wired, adam = plan.wired, backward.optimizer
    model = wired.trained.model
    train = train_section(Path(), plan, backward, tasks[0])
    regularization = train.regularization.model_copy(update={"ema_decay": backward.ema_decay})
    train = train.model_copy(
        update={
            "max_grad_norm": adam.max_grad_norm,
            "regularization": regularization,
            "device": backward.device,
            "precision": backward.precision,
        }
    )
    _teach(train, wired, by_reader(tasks), backward.device)
    for head in model.heads.values():
        if isinstance(head, ClassifyHead | MatchHead):
            head.label_smoothing = train.regularization.label_smoothing
    word_dropout = (
        _word_dropout(train.regularization.word_dropout, wired) if train.regularization.word_dropout else None
    )
    freeze_layers(model.backbone, blocks=adam.freeze_layers, embeddings=adam.freeze_embeddings)
    schedule = adam.lr_schedualer or (lambda step: 1.0)
    if hasattr(schedule, "fitted"):
        schedule = schedule.fitted(len(plan.mixing))
    return build_loop(
        train,
        model,
        Order(wired.sources, plan.mixing, plan.reference),
        {task.name: task.weight for task in tasks},
        word_dropout,
        SINGLE_PROCESS,
        make_optimizer=None if isinstance(adam, Adam) else adam.build,
        schedule=schedule,
    )


def _teach(train: TrainConfig, wired: Wired, groups: Mapping[str, Sequence[Task]], device: str) -> None:
    readers = {data: members[0].fitted for data, members in groups.items()}
    examples = {data: reader.examples for data, reader in readers.items() if isinstance(reader, TextReader)}
    attach_soft_targets(train, wired.trained, wired.sources, examples, device)


def _word_dropout(share: float, wired: Wired) -> WordDropout:
    """The option, with the row of the stand-in among those that train."""
    trained = wired.trained
    found = WordDropout.of(trained.tokenizer_json, share)
    if not train_every_embedding(trained.tasks.values()):
        unfreeze_rows(trained.model.backbone)
        used = [source.dataset.piece_ids() for source in wired.sources.values()]
        freeze_unused_rows(trained.model.backbone, torch.cat([torch.tensor([found.stand_in]), *used]).unique())
    return found

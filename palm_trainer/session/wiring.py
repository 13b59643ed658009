"""Tasks as they were declared, and readers with data -> the engine's model and sources. Everything that cannot fit is said here, before the first step."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from palm_trainer.backbone import Backbone, freeze_unused_rows, thaw_rows
from palm_trainer.errors import WiringError
from palm_trainer.head import Head, make_head
from palm_trainer.loop import Source
from palm_trainer.model import MultiTaskModel, TrainedModel, describe_encoder
from palm_trainer.reader.base_reader import Reader
from palm_trainer.reader.target import Target
from palm_trainer.reader.vocabulary import pad_token_id, vocabulary_size
from palm_trainer.session.task import Task


@dataclass(frozen=True)
class Wired:
    """A model with the data that trains it. Data sets are named after the first task that reads them."""

    trained: TrainedModel
    targets: Mapping[str, Target]
    sources: Mapping[str, Source]
    ratios: Mapping[str, float]


def wire(tasks: Sequence[Task], encoder_name: str) -> Wired:
    """Binds heads to what the readers hold. Seeds torch's generator with the first reader's seed. Raises WiringError and DataError."""
    backbone = shared_backbone(tasks)
    first = tasks[0].fitted
    for task in tasks:
        _check_reader(task, task.fitted, first, backbone)
    torch.manual_seed(first.seed)
    targets = {
        task.name: task.fitted.target(task.name, head.kind, classes=head.classes, role=task.role, **head.options)
        for task in tasks
        for _, head in [task.declared]
    }
    thaw_rows(backbone)
    heads = _heads(tasks, targets, backbone)
    model = MultiTaskModel(backbone, heads)
    trained = TrainedModel(
        model,
        first.tokenizer_json,
        max(task.fitted.max_len for task in tasks),
        {name: target.info for name, target in targets.items()},
        describe_encoder(backbone, encoder_name, pad_token_id(first.tokenizer_json)),
        frozenset(task.name for task in tasks if not task.answers),
    )
    groups = by_reader(tasks)
    sources, ratios = {}, {}
    for name, members in groups.items():
        dataset = members[0].fitted.dataset({t.name: targets[t.name] for t in members}, model.input_names)
        sources[name] = Source(dataset, members[0].fitted.sampler(dataset))
        ratios[name] = members[0].mix_ratio
    if not any(target.info.kind == "masked_lm" for target in targets.values()):  # it trains every row, as decoder
        freeze_unused_rows(backbone, torch.cat([s.dataset.piece_ids() for s in sources.values()]).unique())
    return Wired(trained, targets, sources, ratios)


def shared_backbone(tasks: Sequence[Task]) -> Backbone:
    """The one backbone of all tasks. Raises WiringError when they have several."""
    backbone, _ = tasks[0].declared
    for task in tasks[1:]:
        if task.declared[0] is not backbone:
            raise WiringError(
                f"trainers '{tasks[0].name}' and '{task.name}' have different backbones. "
                "Tasks share one encoder: pass the same object to both build_forward calls."
            )
    return backbone


def check_head(task: Task) -> None:
    """Raises WiringError when backbone and declared head are not what they should be, or of different widths."""
    backbone, head = task.declared
    if not isinstance(backbone, Backbone):
        raise WiringError(
            f"trainer '{task.name}': {backbone!r} is no backbone. Pass one of palm.backbone, such as ERNIE.from_config(config)."
        )
    if not hasattr(head, "kind") or not hasattr(head, "width"):
        raise WiringError(
            f"trainer '{task.name}': {head!r} is no head. Pass one of palm.head, such as Classify(num_classes, input_dim)."
        )
    if head.width != backbone.hidden_size:
        raise WiringError(
            f"trainer '{task.name}': its head was declared with input_dim={head.width}, but the backbone's hidden size is {backbone.hidden_size}. "
            f"Write input_dim={backbone.hidden_size}."
        )


def by_reader(tasks: Iterable[Task]) -> dict[str, list[Task]]:
    """Tasks that were given the same reader object share its batches. Raises WiringError when their mix ratios differ."""
    groups: dict[str, list[Task]] = {}
    for task in tasks:
        name = next((name for name, members in groups.items() if members[0].reader is task.reader), task.name)
        groups.setdefault(name, []).append(task)
    for name, members in groups.items():
        if len({task.mix_ratio for task in members}) > 1:
            listed = ", ".join(f"{task.name}: {task.mix_ratio:g}" for task in members)
            raise WiringError(
                f"trainers that share the reader of '{name}' have different mix ratios ({listed}). Their batches are the same: make the ratios equal."
            )
    return groups


def _check_reader(task: Task, reader: Reader, first: Reader, backbone: Backbone) -> None:
    settings = backbone.encoder.config
    positions = int(getattr(settings, "max_position_embeddings", 0) or 0)
    if reader.tokenizer_json != first.tokenizer_json:
        raise WiringError(
            f"trainer '{task.name}': its reader has another vocabulary (or lower-casing) than the first. One encoder has one: pass the same vocab_path."
        )
    if 0 < positions < reader.max_len:
        raise WiringError(
            f"trainer '{task.name}': its reader has max_len={reader.max_len} tokens, but the backbone has positions for {positions}. Write {positions} or less."
        )
    size = vocabulary_size(reader.tokenizer_json)
    if size > int(settings.vocab_size):  # type: ignore[union-attr,arg-type]
        raise WiringError(
            f"trainer '{task.name}': its reader's vocabulary holds {size} tokens, but the backbone's vocab_size is {settings.vocab_size}. "  # type: ignore[union-attr]
            "Give both the files of one model."
        )


def _heads(tasks: Sequence[Task], targets: Mapping[str, Target], backbone: Backbone) -> dict[str, Head]:
    """The engine's heads; one object for tasks that share a head."""
    heads: dict[str, Head] = {}
    rows, columns = backbone.embedding_table.shape
    for task in sorted(tasks, key=lambda task: task.reuse_head_with is not None):
        _, declared = task.declared
        info = targets[task.name].info
        if task.reuse_head_with is not None:
            heads[task.name] = _reused(task, heads, targets)
            continue
        options: dict[str, Any] = (
            {"margin": margin} if (margin := getattr(declared, "margin", None)) is not None else {}
        )
        rows, columns = backbone.embedding_table.shape
        options["embedding"] = (rows, columns)
        head = make_head(task.name, info, backbone.hidden_size, dropout=declared.dropout, **options)
        std = getattr(declared, "param_initializer_range", 0.02)
        if std != 0.02 and isinstance(linear := getattr(head, "linear", None), nn.Linear):
            nn.init.normal_(linear.weight, std=std)
        heads[task.name] = head
    return {task.name: heads[task.name] for task in tasks}


def _reused(task: Task, heads: Mapping[str, Head], targets: Mapping[str, Target]) -> Head:
    other = task.reuse_head_with or ""
    if other not in heads:
        raise WiringError(
            f"trainer '{task.name}': reuse_head_with='{other}', but there is no trainer of that name with a head of its own. There are: {', '.join(heads)}."
        )
    mine, theirs = targets[task.name].info, targets[other].info
    if (mine.kind, mine.labels) != (theirs.kind, theirs.labels):
        raise WiringError(
            f"trainer '{task.name}' cannot reuse the head of '{other}': their kinds or labels differ ({mine.kind} with {len(mine.labels)} labels, "
            f"{theirs.kind} with {len(theirs.labels)}). Give both readers the same label_map, or leave reuse_head_with out."
        )
    return heads[other]

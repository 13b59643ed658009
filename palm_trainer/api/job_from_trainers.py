"""Tasks as they were declared, and readers with data -> the engine's model and sources. Everything that cannot fit is said here, before the first step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from palm_trainer.api.custom.encoder import OwnBackbone, inputs_of, own_encoder
from palm_trainer.api.custom.head import OwnHead, check_own_head, in_phase, taken_by
from palm_trainer.api.custom.names import NO_TOKENIZER
from palm_trainer.api.custom.reader import OwnSource, ReaderContent, is_own
from palm_trainer.api.declarations import Batch, Task
from palm_trainer.api.fit_checks import _check_reader, by_reader, shared_backbone
from palm_trainer.api.head import Classify, DeclaredHead
from palm_trainer.api.head.base_head import Head as OwnedHead
from palm_trainer.api.reader.text_reader import TextReader
from palm_trainer.data.dataset import TrainingBatch
from palm_trainer.data.targets.base import Target
from palm_trainer.data.targets.classify import ClassifyTarget
from palm_trainer.data.vocabulary import pad_token_id, vocabulary_size
from palm_trainer.errors import WiringError
from palm_trainer.model.encoders import Encoder, freeze_unused_rows, unfreeze_rows
from palm_trainer.model.heads import TaskHead, make_head
from palm_trainer.model.multi_task import MultiTaskModel, TrainedModel, describe_encoder
from palm_trainer.tasks import task_kind, train_every_embedding
from palm_trainer.tensors import PALM_NAMES
from palm_trainer.training.source import Source


@dataclass(frozen=True)
class Wired:
    """A model with the data that trains it. Data sets are named after the first task that reads them."""

    trained: TrainedModel
    targets: Mapping[str, Target]
    sources: Mapping[str, Source]
    ratios: Mapping[str, float]
    own: bool
    """Whether the user wrote a backbone, head or reader of it, so that no configuration can tell how to build it."""


def wire(tasks: Sequence[Task], encoder_name: str) -> Wired:
    """Binds heads to what the readers hold. Seeds torch's generator with the first reader's seed. Raises WiringError and DataError."""
    backbone = shared_backbone(tasks)
    readers = [task.fitted for task in tasks if isinstance(task.fitted, TextReader)]
    for task in tasks:
        _check_reader(task, task.fitted, readers, backbone)
        if task.own_head is not None:
            check_own_head(task.name, task.own_head, task.fitted, backbone)
    torch.manual_seed(tasks[0].fitted.seed)
    targets = {task.name: target for task in tasks if (target := _target(task)) is not None}
    own_backbone = isinstance(backbone, OwnBackbone)
    if not own_backbone:
        unfreeze_rows(backbone)
    model = MultiTaskModel(backbone, _heads(tasks, targets, backbone))
    tokenizer_json = readers[0].tokenizer_json if readers else NO_TOKENIZER
    pad = pad_token_id(tokenizer_json) if readers else 0
    if isinstance(backbone, OwnBackbone):
        encoder = own_encoder(backbone, vocabulary_size(tokenizer_json) if readers else 1, pad)
    else:
        encoder = describe_encoder(backbone, encoder_name, pad)
    trained = TrainedModel(
        model,
        tokenizer_json,
        max((reader.max_len for reader in readers), default=0),
        {task.name: targets[task.name].info for task in tasks if task.has_kind},
        encoder,
        frozenset(task.name for task in tasks if not task.answers),
    )
    groups = by_reader(tasks)
    sources = {name: _source(members, targets, backbone) for name, members in groups.items()}
    ratios = {name: members[0].mix_ratio for name, members in groups.items()}
    own_readers = any(isinstance(source, OwnSource) for source in sources.values())
    masked = train_every_embedding(target.info for target in targets.values())
    if not (own_backbone or own_readers or masked):
        freeze_unused_rows(backbone, torch.cat([s.dataset.piece_ids() for s in sources.values()]).unique())
    own = own_backbone or own_readers or any(task.own_head is not None for task in tasks)
    return Wired(trained, targets, sources, ratios, own)


def _target(task: Task) -> Target | None:
    """What a task learns from its reader's labels; None where a reader or head of the user knows that itself."""
    _, head = task.declared
    reader = task.fitted
    if not is_own(reader) and isinstance(reader, TextReader):
        if isinstance(head, DeclaredHead):
            return reader.target(task.name, head.kind, classes=head.classes, role=task.role, **head.options)
        if head.kind != "custom":
            options = task_kind(head.kind).custom_head_options
            return reader.target(task.name, head.kind, role=task.role, **options)
        wanted = in_phase(head, "train", lambda: set(head.inputs_attrs.get("reader", {}))) & set(reader.labels_attr)
        return reader.target(task.name, reader.kinds[0]) if wanted else None
    if isinstance(head, Classify) and "label_ids" in reader.outputs_attr:
        reader.require_attr("label_ids")
        return ClassifyTarget(task.name, "label_ids", [str(i) for i in range(head.classes or 0)], role=task.role)
    if head.kind == "custom":
        return None
    raise WiringError(
        f"trainer '{task.name}': {type(reader).__name__}, a reader of your own, trains heads of your own, and Classify where it gives 'label_ids'; "
        f"not {type(head).__name__}. Subclass palm.head.base_head.Head, or a reader of palm.reader."
    )


def _source(members: Sequence[Task], targets: Mapping[str, Target], backbone: Encoder) -> Source:
    """The data of tasks that share a reader."""
    reader = members[0].fitted
    for name in backbone.inputs_attr:
        reader.require_attr(name)
    if is_own(reader) or not isinstance(reader, TextReader):
        return OwnSource(reader, {task.name: task.own_head for task in members}, backbone)
    inputs = tuple(PALM_NAMES) if isinstance(backbone, OwnBackbone) else tuple(spec.name for spec in backbone.inputs)
    dataset = reader.dataset({t.name: targets[t.name] for t in members if t.name in targets}, inputs)
    source = Source(dataset, reader.sampler(dataset))
    source.tasks = tuple(task.name for task in members)
    return source


def training_batch(content: TrainingBatch, data: str, members: Sequence[Task], backbone: Encoder) -> Batch:
    """A batch as the user sees it and as the engine takes it."""
    reader = members[0].fitted
    if isinstance(content, ReaderContent):
        return Batch(content.arrays, data, content)
    assert isinstance(reader, TextReader)
    arrays = reader.attrs_of(content)
    targets: dict[str, Any] = dict(content.targets)
    for task in members:
        if task.own_head is not None:
            labels = {t: content.targets[t] for t in content.targets if t == task.name}
            targets[task.name] = taken_by(task.own_head, reader.attrs_of(replace(content, targets=labels)), "train")
    inputs = inputs_of(arrays, backbone) if isinstance(backbone, OwnBackbone) else content.inputs
    return Batch(arrays, data, replace(content, inputs=inputs, targets=targets))


def _heads(tasks: Sequence[Task], targets: Mapping[str, Target], backbone: Encoder) -> dict[str, TaskHead]:
    """The engine's heads; one object for tasks that share a head."""
    heads: dict[str, TaskHead] = {}
    rows, columns = backbone.embedding_table.shape
    for task in sorted(tasks, key=lambda task: task.reuse_head_with is not None):
        _, declared = task.declared
        if isinstance(declared, OwnedHead):
            heads[task.name] = OwnHead(task.name, declared)
            continue
        info = targets[task.name].info
        if task.reuse_head_with is not None:
            heads[task.name] = _reused(task, heads, targets)
            continue
        options: dict[str, Any] = (
            {"margin": margin} if (margin := getattr(declared, "margin", None)) is not None else {}
        )
        options["embedding"] = (rows, columns)
        head = make_head(task.name, info, backbone.hidden_size, dropout=declared.dropout, **options)
        std = getattr(declared, "param_initializer_range", 0.02)
        if std != 0.02 and isinstance(linear := getattr(head, "linear", None), nn.Linear):
            nn.init.normal_(linear.weight, std=std)
        heads[task.name] = head
    return {task.name: heads[task.name] for task in tasks}


def _reused(task: Task, heads: Mapping[str, TaskHead], targets: Mapping[str, Target]) -> TaskHead:
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

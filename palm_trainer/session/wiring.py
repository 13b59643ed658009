"""Tasks as they were declared, and readers with data -> the engine's model and sources. Everything that cannot fit is said here, before the first step."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from palm_trainer.backbone import Backbone, freeze_unused_rows, thaw_rows
from palm_trainer.errors import WiringError
from palm_trainer.head import DeclaredHead, Head, make_head
from palm_trainer.head.base_head import Head as OwnedHead
from palm_trainer.loop import Source
from palm_trainer.model import MultiTaskModel, TrainedModel, describe_encoder
from palm_trainer.reader.base_reader import Reader
from palm_trainer.reader.classify import ClassifyTarget
from palm_trainer.reader.dataset import TrainingBatch
from palm_trainer.reader.target import Target
from palm_trainer.reader.text_reader import TextReader
from palm_trainer.reader.vocabulary import pad_token_id, vocabulary_size
from palm_trainer.session.own import (
    NO_TOKENIZER,
    OwnBackbone,
    OwnHead,
    OwnSource,
    ReaderContent,
    check_attrs,
    check_own_head,
    in_phase,
    inputs_of,
    is_own,
    own_encoder,
    taken_by,
)
from palm_trainer.session.task import Batch, Task
from palm_trainer.specs import PALM_NAMES


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
        thaw_rows(backbone)
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
    masked = any(target.info.kind == "masked_lm" for target in targets.values())  # it trains every row, as decoder
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
            tagger = {"crf": False} if head.kind == "sequence_label" else {}  # a chain would be the package's own
            return reader.target(task.name, head.kind, role=task.role, **tagger)
        wanted = in_phase(head, "train", lambda: set(head.inputs_attrs.get("reader", {}))) & set(reader.labels_attr)
        return reader.target(task.name, reader.kinds[0]) if wanted else None
    if isinstance(head, DeclaredHead) and head.kind == "classify" and "label_ids" in reader.outputs_attr:
        reader.require_attr("label_ids")
        return ClassifyTarget(task.name, "label_ids", [str(i) for i in range(head.classes or 0)], role=task.role)
    if head.kind == "custom":
        return None
    raise WiringError(
        f"trainer '{task.name}': {type(reader).__name__}, a reader of your own, trains heads of your own, and Classify where it gives 'label_ids'; "
        f"not {type(head).__name__}. Subclass palm.head.base_head.Head, or a reader of palm.reader."
    )


def _source(members: Sequence[Task], targets: Mapping[str, Target], backbone: Backbone) -> Source:
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


def training_batch(content: TrainingBatch, data: str, members: Sequence[Task], backbone: Backbone) -> Batch:
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


def shared_backbone(tasks: Sequence[Task]) -> Backbone:
    """The one backbone of all tasks. Raises WiringError when they have several."""
    backbone, _ = tasks[0].declared
    for task in tasks[1:]:
        if _as_given(task.declared[0]) is not _as_given(backbone):
            raise WiringError(
                f"trainers '{tasks[0].name}' and '{task.name}' have different backbones. "
                "Tasks share one encoder: pass the same object to both build_forward calls."
            )
    return backbone


def _as_given(backbone: Backbone) -> object:
    return backbone.encoder if isinstance(backbone, OwnBackbone) else backbone


def check_head(task: Task) -> None:
    """Raises WiringError when backbone and declared head are not what they should be, or of different widths."""
    backbone, head = task.declared
    if not isinstance(backbone, Backbone):
        raise WiringError(
            f"trainer '{task.name}': {backbone!r} is no backbone. Pass one of palm.backbone, such as ERNIE.from_config(config)."
        )
    if isinstance(head, OwnedHead):
        return
    if not isinstance(head, DeclaredHead):
        raise WiringError(
            f"trainer '{task.name}': {head!r} is no head. Pass one of palm.head, such as Classify(num_classes, input_dim)."
        )
    if hasattr(head, "build"):
        raise WiringError(
            f"trainer '{task.name}': {type(head).__name__} has a build method, which nothing would call: heads of palm.head are declarations. "
            "Subclass palm.head.base_head.Head."
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


def _check_reader(task: Task, reader: Reader, texts: Sequence[TextReader], backbone: Backbone) -> None:
    if not isinstance(reader, TextReader):
        check_attrs(
            backbone.inputs_attr, reader.outputs_attr, f"the backbone of trainer '{task.name}'", type(reader).__name__
        )
        return
    first = texts[0]
    if reader.tokenizer_json != first.tokenizer_json:
        raise WiringError(
            f"trainer '{task.name}': its reader has another vocabulary (or lower-casing) than the first. One encoder has one: pass the same vocab_path."
        )
    if isinstance(backbone, OwnBackbone):
        check_attrs(
            backbone.inputs_attr, reader.outputs_attr, f"the backbone of trainer '{task.name}'", type(reader).__name__
        )
        return
    settings = backbone.encoder.config
    positions = backbone.max_length
    if positions is not None and positions < reader.max_len:
        raise WiringError(
            f"trainer '{task.name}': its reader has max_len={reader.max_len} tokens, but the backbone has positions for {positions}. Write {positions} or less."
        )
    pad = pad_token_id(reader.tokenizer_json)
    if backbone.pad_token_id not in (None, pad):
        raise WiringError(
            f"trainer '{task.name}': its reader's vocabulary pads with the id {pad}, but the backbone's positions leave out the id {backbone.pad_token_id}. "
            f"Write pad_token_id {pad} in the backbone's configuration."
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

"""Wire declared tasks and readers with data to the engine's model and sources. What cannot fit is reported here, before the first step."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import nn

from palm_serve.bundle.manifest import EncoderInfo
from palm_trainer.api.custom.encoder import CustomEncoder, describe_custom_encoder
from palm_trainer.api.custom.head import CustomHead, check_custom_head, in_phase
from palm_trainer.api.custom.names import NO_TOKENIZER
from palm_trainer.api.custom.reader import CompletedSource, CustomSource, ReaderContent, is_custom_reader
from palm_trainer.api.declarations import Batch, Task
from palm_trainer.api.fit_checks import _check_reader, by_reader, shared_backbone
from palm_trainer.api.head import Classify, DeclaredHead
from palm_trainer.api.head.base_head import Head as UserHead
from palm_trainer.api.reader.text_reader import TextReader
from palm_trainer.config.mappings import absent, select_keys
from palm_trainer.data.dataset import TrainingBatch
from palm_trainer.data.substitution import Substitution, listed_wordings
from palm_trainer.data.targets.base import Target
from palm_trainer.data.targets.classify import ClassifyTarget
from palm_trainer.errors import WiringError
from palm_trainer.model.encoders import Encoder, unfreeze_rows
from palm_trainer.model.heads import TaskHead, make_head
from palm_trainer.model.heads.prototype import PrototypeHead
from palm_trainer.model.multi_task import MultiTaskModel, TrainedModel, describe_encoder
from palm_trainer.runs.class_vectors import ClassTexts
from palm_trainer.tasks import task_kind
from palm_trainer.tensors import PALM_NAMES
from palm_trainer.tokenization.vocabulary_files import pad_token_id, vocabulary_size
from palm_trainer.training.source import Source


@dataclass(frozen=True)
class Wired:
    """A model with the data that trains it. Data sets are named after the first task that reads them.

    `custom`: the user wrote the encoder, a head or a reader, so that no configuration describes the model.
    `freezes_rows`: encoder and readers are the package's own, so that rows of the embedding may be frozen.
    """

    trained: TrainedModel
    targets: Mapping[str, Target]
    sources: Mapping[str, Source]
    groups: Mapping[str, list[Task]]
    custom: bool
    freezes_rows: bool

    @property
    def ratios(self) -> dict[str, float]:
        """Mix ratio of each data set."""
        return {name: members[0].mix_ratio for name, members in self.groups.items()}

    @property
    def reads_batches(self) -> bool:
        """True where a reader of the user gives whole batches, which cannot be cut."""
        return any(isinstance(source, CustomSource) for source in self.sources.values())

    def batch(self, data: str, content: TrainingBatch, micro_batches: Sequence[TrainingBatch]) -> Batch:
        """Return a batch as the user sees it and as the engine takes it.

        Args:
            data: its data set.
            content: the whole batch.
            micro_batches: this process's share of it.
        """
        reader = self.groups[data][0].fitted
        if isinstance(content, ReaderContent):
            return Batch(content.arrays, data, micro_batches)
        assert isinstance(reader, TextReader)
        return Batch(reader.attrs_of(content), data, micro_batches)


def wire(tasks: Sequence[Task], encoder_name: str) -> Wired:
    """Bind heads to what the readers hold. Seeds torch's generator with the first reader's seed.

    Raises:
        WiringError, DataError: parts that do not fit each other or the data.
    """
    backbone = shared_backbone(tasks)
    readers = [task.fitted for task in tasks if isinstance(task.fitted, TextReader)]
    for task in tasks:
        _check_reader(task, task.fitted, readers, backbone)
        if task.custom_head is not None:
            check_custom_head(task.name, task.custom_head, task.fitted, backbone)
    seed = tasks[0].fitted.seed
    torch.manual_seed(seed)
    targets = _targets(tasks)
    if not isinstance(backbone, CustomEncoder):
        unfreeze_rows(backbone)
    model = MultiTaskModel(backbone, _heads(tasks, targets, backbone))
    tokenizer_json = readers[0].tokenizer_json if readers else NO_TOKENIZER
    trained = TrainedModel(
        model,
        tokenizer_json,
        max(map(attrgetter("max_len"), readers), default=0),
        {task.name: targets[task.name].info for task in tasks if task.has_kind},
        _describe_encoder(backbone, encoder_name, tokenizer_json),
        frozenset(task.name for task in tasks if not task.answers),
    )
    groups = by_reader(tasks)
    sources = {name: _source(members, targets, backbone, seed) for name, members in groups.items()}
    custom_parts = isinstance(backbone, CustomEncoder) or any(isinstance(s, CustomSource) for s in sources.values())
    custom = custom_parts or any(task.custom_head is not None for task in tasks)
    return Wired(trained, targets, sources, groups, custom, freezes_rows=not custom_parts)


def _describe_encoder(backbone: Encoder, name: str, tokenizer_json: str) -> EncoderInfo:
    has_vocabulary = tokenizer_json != NO_TOKENIZER
    pad = pad_token_id(tokenizer_json) if has_vocabulary else 0
    if isinstance(backbone, CustomEncoder):
        return describe_custom_encoder(backbone, vocabulary_size(tokenizer_json) if has_vocabulary else 1, pad)
    return describe_encoder(backbone, name, pad)


def _targets(tasks: Sequence[Task]) -> dict[str, Target]:
    targets = {}
    for task in tasks:
        target = _target(task)
        if target is not None:
            targets[task.name] = target
    return targets


def _target(task: Task) -> Target | None:
    """Return the target of a task from its reader's labels. None where a custom reader or head makes its own."""
    _, head = task.declared
    reader = task.fitted
    if not is_custom_reader(reader) and isinstance(reader, TextReader):
        if isinstance(head, DeclaredHead):
            return reader.target(task.name, head.kind, classes=head.classes, role=task.role, **head.options)
        if head.kind != "custom":
            options = task_kind(head.kind).custom_head_options
            return reader.target(task.name, head.kind, role=task.role, **options)
        inputs = in_phase(head, "train", lambda: set(head.inputs_attrs.get("reader", {})))
        return reader.target(task.name, reader.kinds[0]) if inputs & set(reader.labels_attr) else None
    if isinstance(head, Classify) and "label_ids" in reader.outputs_attr:
        reader.require_attr("label_ids")
        return ClassifyTarget(task.name, "label_ids", list(map(str, range(head.classes or 0))), role=task.role)
    if head.kind == "custom":
        return None
    raise WiringError(
        f"trainer '{task.name}': {type(reader).__name__}, a reader of your own, trains heads of your own, and Classify where it gives 'label_ids'; "
        f"not {type(head).__name__}. Subclass palm.head.base_head.Head, or a reader of palm.reader."
    )


def _source(members: Sequence[Task], targets: Mapping[str, Target], backbone: Encoder, seed: int) -> Source:
    """Return the data of tasks that share a reader. `seed` is that of the substitution of values."""
    reader = members[0].fitted
    for name in backbone.inputs_attr:
        reader.require_attr(name)
    heads = {task.name: task.custom_head for task in members}
    if is_custom_reader(reader) or not isinstance(reader, TextReader):
        return CustomSource(reader, heads, backbone)
    custom_encoder = isinstance(backbone, CustomEncoder)
    input_names = tuple(PALM_NAMES) if custom_encoder else tuple(map(attrgetter("name"), backbone.inputs))
    member_targets = select_keys(targets, map(attrgetter("name"), members))
    dataset = reader.dataset(member_targets, input_names, _substitution(reader, member_targets, seed))
    sampler = reader.sampler(dataset)
    if custom_encoder or any(head is not None for head in heads.values()):
        return CompletedSource(reader, dataset, sampler, heads, backbone)
    return Source(dataset, sampler)


def _substitution(reader: TextReader, targets: Mapping[str, Target], seed: int) -> Substitution | None:
    """Return the substitution of values that the reader asks for. The first tagger names the field."""
    fields = []
    for target in targets.values():
        if task_kind(target.info.kind).learns_tags:
            fields.append(target.field)
    if not reader.substitute:
        return None
    if not fields:
        raise WiringError(
            f"{type(reader).__name__}: substitute replaces the values of slots, but no SequenceLabel head trains on its data. "
            "Leave substitute out of load_data."
        )
    lists = listed_wordings(reader.examples, fields[0], reader.values)
    return Substitution(reader.examples, fields[0], reader.substitute, seed, lists)


def _heads(tasks: Sequence[Task], targets: Mapping[str, Target], backbone: Encoder) -> dict[str, TaskHead]:
    """The engine's heads; one object for tasks that share a head."""
    heads: dict[str, TaskHead] = {}
    rows, columns = backbone.embedding_table.shape
    for task in sorted(tasks, key=lambda task: task.reuse_head_with is not None):
        _, declared = task.declared
        if isinstance(declared, UserHead):
            heads[task.name] = CustomHead(task.name, declared)
            continue
        info = targets[task.name].info
        if task.reuse_head_with is not None:
            heads[task.name] = _reused(task, heads, targets)
            continue
        options: dict[str, Any] = (
            {"margin": margin} if (margin := getattr(declared, "margin", None)) is not None else {}
        )
        options["embedding"] = (rows, columns)
        if isinstance(declared, Classify) and declared.head == PrototypeHead.variant:
            _check_prototype(task, backbone)
            options["variant"] = declared.head
        head = make_head(task.name, info, backbone.hidden_size, dropout=declared.dropout, **options)
        std = getattr(declared, "param_initializer_range", 0.02)
        if std != 0.02 and isinstance(linear := getattr(head, "linear", None), nn.Linear):
            nn.init.normal_(linear.weight, std=std)
        heads[task.name] = head
    return select_keys(heads, map(attrgetter("name"), tasks))


def _check_prototype(task: Task, backbone: Encoder) -> None:
    """Raise WiringError where the texts of the classes cannot be encoded."""
    if isinstance(backbone, CustomEncoder) or is_custom_reader(task.fitted) or not isinstance(task.fitted, TextReader):
        raise WiringError(
            f"trainer '{task.name}': head='prototype' must have a reader and a backbone of the package, got one of your own. "
            "Choose head='linear'."
        )


def class_texts(tasks: Iterable[Task], targets: Mapping[str, Target]) -> dict[str, ClassTexts]:
    """Return what the class vectors of each prototype head start from, by task.

    Raises:
        WiringError: words of a label that the data does not have.
    """
    texts = {}
    for task in tasks:
        _, declared = task.declared
        reader = task.fitted
        if isinstance(declared, Classify) and declared.head == PrototypeHead.variant and task.reuse_head_with is None:
            assert isinstance(reader, TextReader)
            unknown = absent(declared.names, targets[task.name].info.labels)
            if unknown:
                raise WiringError(
                    f"trainer '{task.name}': names must be of labels in the data, got '{unknown[0]}'. Remove it."
                )
            texts[task.name] = ClassTexts(targets[task.name].field, reader.examples, declared.names)
    return texts


def _reused(task: Task, heads: Mapping[str, TaskHead], targets: Mapping[str, Target]) -> TaskHead:
    source_task = task.reuse_head_with or ""
    if source_task not in heads:
        raise WiringError(
            f"trainer '{task.name}': reuse_head_with='{source_task}', but there is no trainer of that name with a head of its own. "
            f"There are: {', '.join(heads)}."
        )
    info = targets[task.name].info
    source_info = targets[source_task].info
    if (info.kind, info.labels) != (source_info.kind, source_info.labels):
        raise WiringError(
            f"trainer '{task.name}' cannot reuse the head of '{source_task}': their kinds or labels differ ({info.kind} with {len(info.labels)} labels, "
            f"{source_info.kind} with {len(source_info.labels)}). Give both readers the same label_map, or leave reuse_head_with out."
        )
    return heads[source_task]

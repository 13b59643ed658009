"""Checks that readers, backbone and heads of declared tasks fit together."""

from collections.abc import Iterable, Sequence

from palm_trainer.api.custom.encoder import OwnBackbone
from palm_trainer.api.custom.names import check_attrs
from palm_trainer.api.declarations import Task
from palm_trainer.api.head import DeclaredHead
from palm_trainer.api.head.base_head import Head as OwnedHead
from palm_trainer.api.reader.base_reader import Reader
from palm_trainer.api.reader.text_reader import TextReader
from palm_trainer.data.vocabulary import pad_token_id, vocabulary_size
from palm_trainer.errors import WiringError
from palm_trainer.model.encoders import Encoder


def shared_backbone(tasks: Sequence[Task]) -> Encoder:
    """The one backbone of all tasks. Raises WiringError when they have several."""
    backbone, _ = tasks[0].declared
    for task in tasks[1:]:
        if _as_given(task.declared[0]) is not _as_given(backbone):
            raise WiringError(
                f"trainers '{tasks[0].name}' and '{task.name}' have different backbones. "
                "Tasks share one encoder: pass the same object to both build_forward calls."
            )
    return backbone


def _as_given(backbone: Encoder) -> object:
    return backbone.encoder if isinstance(backbone, OwnBackbone) else backbone


def check_head(task: Task) -> None:
    """Raises WiringError when backbone and declared head are not what they should be, or of different widths."""
    backbone, head = task.declared
    if not isinstance(backbone, Encoder):
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


def _check_reader(task: Task, reader: Reader, texts: Sequence[TextReader], backbone: Encoder) -> None:
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

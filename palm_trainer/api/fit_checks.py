"""Checks that readers, backbone and heads of declared tasks fit together."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from palm_trainer.api.custom.encoder import CustomEncoder
from palm_trainer.api.custom.names import check_attrs
from palm_trainer.api.declarations import Task
from palm_trainer.api.head import DeclaredHead
from palm_trainer.api.head.base_head import Head as UserHead
from palm_trainer.api.reader.base_reader import Reader
from palm_trainer.api.reader.text_reader import TextReader
from palm_trainer.config.loader import check_section
from palm_trainer.config.rules import training_faults
from palm_trainer.config.schema import ClassifyTask
from palm_trainer.errors import ConfigError, WiringError
from palm_trainer.model.encoders import Encoder
from palm_trainer.tasks import task_kind
from palm_trainer.tokenization.vocabulary_files import pad_token_id, vocabulary_size


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
    return backbone.encoder if isinstance(backbone, CustomEncoder) else backbone


def check_head(task: Task) -> None:
    """Raises WiringError when backbone and declared head are not what they should be, or of different widths."""
    backbone, head = task.declared
    if not isinstance(backbone, Encoder):
        raise WiringError(
            f"trainer '{task.name}': {backbone!r} is no backbone. Pass one of palm.backbone, such as ERNIE.from_config(config)."
        )
    if isinstance(head, UserHead):
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
        for members in groups.values():
            if members[0].reader is task.reader:
                members.append(task)
                break
        else:
            groups.setdefault(task.name, []).append(task)
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
    if isinstance(backbone, CustomEncoder):
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


_CUSTOM_CANNOT = (
    ("regularization", "label_smoothing"),
    ("regularization", "r_drop"),
    ("regularization", "fgm"),
    ("regularization", "word_dropout"),
    ("distillation", "teachers"),
)
"""Options that reach into readers, backbones and heads of the package."""


def check_options(train: Mapping[str, Any], groups: Mapping[str, Sequence[Task]], *, custom: bool) -> None:
    """Check that the settings of `[train]` fit the tasks.

    Args:
        train: the settings that were made.
        groups: tasks by data set.
        custom: the user wrote the encoder, a head or a reader.

    Raises:
        ConfigError: with a line for each setting that does not fit.
    """
    data = {}
    for name, members in groups.items():
        data[name] = {"mix_ratio": members[0].mix_ratio}
    tasks: dict[str, dict[str, Any]] = {}
    for name, members in groups.items():
        for task in members:
            tasks[task.name] = _task_table(task, name)
    faults = list(training_faults(train, {}, data, tasks))
    if train.get("distillation", {}).get("student"):
        faults.append(
            "train.distillation.student must be left out of options, because trainers bring a backbone of their own. "
            "Use `palm-train compress` on a run of a configuration."
        )
    for section, key in _CUSTOM_CANNOT if custom else ():
        if train.get(section, {}).get(key):
            faults.append(
                f"train.{section}.{key}: reaches into readers, backbones and heads of the package, and one of these is your own; remove it"
            )
    if custom and train.get("balancing", {}).get("method") == "gradnorm":
        faults.append(
            "train.balancing.method: 'gradnorm' looks for the last block of the encoder; choose another for your own"
        )
    if faults:
        raise ConfigError("\n".join(faults).replace("train.", "options."))


def _task_table(task: Task, data: str) -> dict[str, Any]:
    """Return the task as `[tasks.NAME]` has it, as far as training heeds it."""
    _, head = task.declared
    dropout = {"dropout": head.dropout} if task.custom_head is None and hasattr(head, "dropout") else {}
    return {"kind": head.kind, "data": [data], "weight": task.weight, **dropout}


def check_rejection(task: Task, share: float | None, score: str | None) -> ClassifyTask:
    """Check the arguments of `set_out_of_scope`, and return them as keys of a task.

    Args:
        task: the classifier.
        share: `false_rejection`.
        score: `out_of_scope_score`.

    Raises:
        WiringError: the task is no classifier of the package.
        ConfigError: a value that is not valid.
    """
    _, head = task.declared
    if task.custom_head is not None or not task_kind(head.kind).detects_out_of_scope:
        raise WiringError(
            f"trainer '{task.name}': set_out_of_scope is for palm.head.Classify, not {type(head).__name__}. Leave it out."
        )
    settings: dict[str, Any] = {"kind": head.kind, "data": [task.name]}
    if share is not None:
        settings["false_rejection"] = share
    if score is not None:
        settings["out_of_scope_score"] = score
    return check_section(ClassifyTask, settings, "set_out_of_scope")


def check_dev(tasks: Sequence[Task]) -> None:
    """Raise WiringError for a task that shall detect out-of-scope text without labelled text to choose the threshold on."""
    for task in tasks:
        if task.rejection is not None and task.evaluation_reader is None:
            raise WiringError(
                f"trainer '{task.name}': set_out_of_scope chooses its threshold on dev, and there is no dev. Call set_evaluator(reader) first."
            )

"""Start from a run: its encoder, tokenizer and heads become the beginning of another training."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load
from tokenizers import Tokenizer
from torch import Tensor

from palm_serve.bundle.manifest import TaskInfo
from palm_serve.system.files import check_regular_files
from palm_trainer.config.atomic_files import NEW_SUFFIX
from palm_trainer.config.encoder_source import BEST, OLD_SUFFIX, find_checkpoint
from palm_trainer.errors import CheckpointError, ConfigError
from palm_trainer.model.checkpoint import (
    TOKENIZER,
    WEIGHTS,
    ModelDescription,
    build_backbone,
    load_trained,
    read_description,
    reading,
)
from palm_trainer.model.encoders.load_pretrained import LoadedEncoder, check_vocabulary, load_pretrained
from palm_trainer.model.multi_task import MultiTaskModel

_BUNDLE = "manifest.json"
_RUN_FILES = ("config.toml", "events.jsonl", "metrics.json")
_BACKBONE = "backbone."
_HEADS = "heads."


@dataclass(frozen=True)
class StartingRun:
    """What a training starts from.

    Args:
        encoder: of the run. Its digest is that of the file of the checkpoint's weights.
        description: `model.json` of the checkpoint.
        weights: of encoder and heads, by their names in the checkpoint.
    """

    encoder: LoadedEncoder
    description: ModelDescription
    weights: Mapping[str, Tensor]


@dataclass(frozen=True)
class TakenHeads:
    """Tasks whose heads came from the run that a training starts from, and why the others did not."""

    source: str
    names: tuple[str, ...]
    untaken: Mapping[str, str]


def find_starting_checkpoint(model: str, key: str = "encoder.model") -> Path | None:
    """Return the checkpoint that a path names, None where it is no directory of a run.

    Args:
        model: a run or one of its checkpoints, perhaps something else.
        key: what messages call it.

    Raises:
        ConfigError: a run without a finished checkpoint, or a bundle.
    """
    path = Path(model).expanduser()
    if not path.is_dir():
        if path.is_absolute() and _is_run(path.parent):
            raise ConfigError(
                f"{key} must be a checkpoint that is there, got {path}. {_advise_checkpoints(path.parent)}"
            )
        return None
    if path.name.endswith(NEW_SUFFIX) and find_checkpoint(path) is not None:
        raise ConfigError(
            f"{key} must be a finished checkpoint, got {path}, which is being written or was left half written. "
            f"{_advise_checkpoints(path.parent)}"
        )
    checkpoint = find_checkpoint(path)
    if checkpoint is not None:
        return checkpoint
    if (path / _BUNDLE).is_file():
        raise ConfigError(
            f"{key} must be an encoder or a run, got the bundle {path}. "
            "A bundle holds a graph, which cannot be trained. Name the run that it was exported from."
        )
    if _is_run(path):
        raise ConfigError(
            f"{key} must be a run with a finished best checkpoint, got {path}, which has none: "
            f"its training has not been evaluated yet, or was stopped before. {_advise_checkpoints(path)}"
        )
    return None


def _is_run(path: Path) -> bool:
    """Return True for the directory of a run, also of one that has just begun."""
    if (path / "config.json").is_file() or not path.is_dir():
        return False
    return any((path / name).is_file() for name in _RUN_FILES) or bool(_checkpoints(path)) or _is_written(path)


def _is_written(run: Path) -> bool:
    return any((run / (name + NEW_SUFFIX)).is_dir() for name in (BEST, "last"))


def _checkpoints(run: Path) -> list[str]:
    """Return the names of the finished checkpoints of a run."""
    names = []
    for path in sorted(run.iterdir()):
        finished = path.is_dir() and find_checkpoint(path) == path
        if finished and not path.name.endswith((NEW_SUFFIX, OLD_SUFFIX)):
            names.append(path.name)
    return names


def _advise_checkpoints(run: Path) -> str:
    names = _checkpoints(run)
    if not names:
        return f"Wait until {run / BEST} is there, or name another run."
    listed = ", ".join(str(run / name) for name in names)
    return f"Name one that is there ({listed}), or another run."


def load_starting_run(checkpoint: Path, key: str = "encoder.model") -> StartingRun:
    """Load the encoder of a checkpoint. Torch's generator stays as it is.

    Args:
        checkpoint: result of `find_starting_checkpoint`.
        key: what messages call it.

    Raises:
        CheckpointError: the checkpoint is damaged.
        ConfigError: the model has parts that the user wrote.
        PalmError: the tokenizer does not fit the encoder.
    """
    check_regular_files(checkpoint, CheckpointError)
    with reading(f"{key}: checkpoint {checkpoint} is damaged", "Name another checkpoint, or train it again."):
        description = read_description(checkpoint)
    if description.own:
        components = ", ".join(map(": ".join, description.own.items()))
        raise ConfigError(
            f"{key} must be a run whose parts are all PALM's, got {checkpoint} with parts of your own ({components}), "
            "which no command can build. Name another run, or continue with this one in Python (load_ckpt)."
        )
    with reading(f"{key}: checkpoint {checkpoint} is damaged", "Name another checkpoint, or train it again."):
        tokenizer_json = (checkpoint / TOKENIZER).read_text(encoding="utf-8-sig")
        Tokenizer.from_str(tokenizer_json)
        content = (checkpoint / WEIGHTS).read_bytes()
        weights = load(content)
        with torch.random.fork_rng(devices=[]):
            backbone = build_backbone(description)
        backbone.load_state_dict(_select(weights, _BACKBONE))
    name = _short_name(checkpoint)
    check_vocabulary(name, backbone, tokenizer_json)
    digest = hashlib.sha256(content).hexdigest()
    encoder = LoadedEncoder(backbone, tokenizer_json, description.encoder.pad_token_id, name, digest)
    return StartingRun(encoder, description, weights)


def load_exported(folder: Path) -> LoadedEncoder:
    """Load an encoder that `palm-train models export` wrote, as it was in its run. Torch's generator stays as it is.

    Raises:
        PalmError: a file is missing or damaged.
    """
    with torch.random.fork_rng(devices=[]):
        encoder = load_pretrained(str(folder), pooling="auto")
    with (folder / WEIGHTS).open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return replace(encoder, name=folder.resolve().name, digest=digest)


def reload_encoder(run: Path) -> LoadedEncoder:
    """Load the encoder of `RUN/last`, under the name and with the digest of what the run started from.

    Torch's generator stays as it is.

    Raises:
        CheckpointError: the checkpoint is damaged.
    """
    with torch.random.fork_rng(devices=[]):
        trained = load_trained(run, "last")
    info = trained.encoder
    return LoadedEncoder(
        trained.model.backbone, trained.tokenizer_json, info.pad_token_id, info.name, info.started_from
    )


def _select(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the weights whose names begin with a prefix, without it."""
    selected = {}
    for name, tensor in weights.items():
        if name.startswith(prefix):
            selected[name.removeprefix(prefix)] = tensor
    return selected


def _short_name(checkpoint: Path) -> str:
    """Return the name of a run, with that of the checkpoint unless it is the best. It tells no path of the machine."""
    run = checkpoint.resolve().parent.name
    return run if checkpoint.name in (BEST, BEST + OLD_SUFFIX) else f"{run}/{checkpoint.name}"


def take_heads(start: StartingRun, model: MultiTaskModel, tasks: Mapping[str, TaskInfo]) -> TakenHeads:
    """Copy the heads of a run into a model: those of the same name, kind and labels.

    Args:
        start: the run.
        model: gets the weights.
        tasks: manifest entries of the model's tasks.
    """
    names = []
    untaken = {}
    for name, info in tasks.items():
        head = model.head(name)
        reason = _difference(start.description.tasks.get(name), info)
        own_weights = head.state_dict()
        head_weights = _select(start.weights, f"{_HEADS}{name}.")
        for weights in (own_weights, head_weights):
            for buffer in head.learnt_buffers & weights.keys():
                del weights[buffer]
        if not reason and _shapes(head_weights) != _shapes(own_weights):
            reason = "its head there has another form"
        if reason:
            untaken[name] = reason
            continue
        head.load_state_dict(head_weights, strict=False)  # what is learnt of the data stays as it is
        names.append(name)
    return TakenHeads(start.encoder.name, tuple(names), untaken)


def _difference(older: TaskInfo | None, newer: TaskInfo) -> str:
    """Return why the head of a task cannot be taken over, an empty text where nothing speaks against it."""
    if older is None:
        return "no such task there"
    if older.kind != newer.kind:
        return f"of kind {older.kind} there"
    if older.labels != newer.labels:
        missing = [label for label in newer.labels if label not in older.labels]
        if missing:
            return f"'{missing[0]}' is no label there"
        return f"{len(older.labels)} labels there, {len(newer.labels)} here"
    return ""


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in weights.items()}

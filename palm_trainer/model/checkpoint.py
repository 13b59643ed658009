"""Models on disk. A checkpoint directory is written beside its place and renamed into it, so that a crash, a full disk or Ctrl-C leaves the
previous one usable.

    model.safetensors   weights of backbone and heads
    model.json          what is needed to build the model again: encoder configuration, tasks with labels and decoding
    tokenizer.json
    training.pt         only in `last/`: optimizer, generators, counters
"""

import json
import pickle
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, PreTrainedModel

from palm_serve.bundle.manifest import EncoderInfo, TaskInfo
from palm_trainer.errors import CheckpointError
from palm_trainer.model.atomic_files import NEW_SUFFIX, sync_to_disk
from palm_trainer.model.encoders import Encoder, new_encoder
from palm_trainer.model.encoders.encoder import Pooling
from palm_trainer.model.heads import make_head
from palm_trainer.model.multi_task import MultiTaskModel, TrainedModel

WEIGHTS, DESCRIPTION, TOKENIZER, TRAINING = "model.safetensors", "model.json", "tokenizer.json", "training.pt"
_OLD_SUFFIX = ".old"


class ModelDescription(BaseModel):
    """Contents of `model.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format_version: int = 1
    encoder_config: dict[str, Any]
    pooling: Pooling
    takes_types: bool
    encoder: EncoderInfo
    max_length: int
    tasks: dict[str, TaskInfo]
    auxiliary: tuple[str, ...] = ()
    own: dict[str, str] = {}
    """Parts that the user wrote (`backbone`, `heads.NAME`) and the name of each one's class. Only who has the classes can build the model."""


def describe_model(trained: TrainedModel) -> ModelDescription:
    """What `model.json` holds."""
    backbone = trained.model.backbone
    own = {
        f"heads.{name}": _class_name(head.user) for name, head in trained.model.heads.items() if hasattr(head, "user")
    }
    encoder_config = {}
    if isinstance(backbone.encoder, PreTrainedModel):
        settings = backbone.encoder.config
        encoder_config = {**settings.to_diff_dict(), "model_type": settings.model_type}
    else:
        own["backbone"] = _class_name(backbone.encoder)
    return ModelDescription(
        encoder_config=encoder_config,
        pooling=backbone.pooling,
        takes_types="token_type_ids" in trained.model.input_names,
        encoder=trained.encoder,
        max_length=trained.max_length,
        tasks=trained.tasks,
        auxiliary=tuple(sorted(trained.auxiliary)),
        own=own,
    )


def _class_name(part: object) -> str:
    return f"{type(part).__module__}.{type(part).__qualname__}"


def save_trained(trained: TrainedModel, directory: Path, training: Mapping[str, Any] | None = None) -> None:
    """Writes a checkpoint atomically. Raises CheckpointError when the disk refuses; the previous checkpoint then stands.

    Args:
        trained: what to write.
        directory: `RUN/best` or `RUN/last`; replaced as a whole.
        training: state to resume from; tensors, numbers, strings, lists and dicts only.
    """
    new, old = directory.with_name(directory.name + NEW_SUFFIX), directory.with_name(directory.name + _OLD_SUFFIX)
    try:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        # copies: safetensors refuses storage that tensors share, as those of two tasks with one head do
        weights = {
            name: value.detach().cpu().contiguous().clone() for name, value in trained.model.state_dict().items()
        }
        save_file(weights, new / WEIGHTS)
        (new / DESCRIPTION).write_text(describe_model(trained).model_dump_json(indent=1), encoding="utf-8")
        (new / TOKENIZER).write_text(trained.tokenizer_json, encoding="utf-8")
        if training is not None:
            torch.save(dict(training), new / TRAINING)
        for path in (*new.iterdir(), new):
            sync_to_disk(path)
        if directory.exists():
            shutil.rmtree(old, ignore_errors=True)
            directory.rename(old)
        new.rename(directory)
        sync_to_disk(directory.parent)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(new, ignore_errors=True)
        if old.exists() and not directory.exists():
            old.rename(directory)
        raise CheckpointError(
            f"checkpoint {directory} could not be written: {error}. Free some space or choose another output; the previous checkpoint stands."
        ) from error


def checkpoint_directory(run: Path, which: str = "best") -> Path:
    """The directory of a checkpoint, recovered when a crash fell between its two renames. Raises CheckpointError when there is none."""
    if not run.is_dir():
        raise CheckpointError(f"{run}: no such run directory. Train one with `palm-train run CONFIG --output {run}`.")
    directory = run / which
    old = directory.with_name(which + _OLD_SUFFIX)
    if not directory.exists() and old.exists():
        old.rename(directory)
    if not (directory / DESCRIPTION).is_file():
        raise CheckpointError(
            f"{run} holds no '{which}' checkpoint: {directory / DESCRIPTION} is missing. Was the training stopped before its first evaluation?"
        )
    return directory


def has_checkpoint(run: Path, which: str) -> bool:
    """Whether a run holds this checkpoint, one that a crash left between its two renames included."""
    return any((run / (which + suffix)).exists() for suffix in ("", _OLD_SUFFIX))


def remove_checkpoints(run: Path) -> None:
    """Deletes `best/` and `last/` of a run, and what a crash left of them."""
    for which in ("best", "last"):
        for suffix in ("", _OLD_SUFFIX, NEW_SUFFIX):
            shutil.rmtree(run / (which + suffix), ignore_errors=True)


def load_trained(
    run: Path, which: str = "best", build: Callable[[ModelDescription], MultiTaskModel] | None = None
) -> TrainedModel:
    """Builds the model of `RUN/best` (or `last`) in eval mode, on the CPU, in fp32. Raises CheckpointError when it is missing or damaged.

    Args:
        run, which: where it is.
        build: builds a model with parts that the user wrote, perhaps without some heads; None: `build_model`.
    """
    directory = checkpoint_directory(run, which)
    try:
        description = ModelDescription.model_validate_json((directory / DESCRIPTION).read_bytes())
        tokenizer_json = (directory / TOKENIZER).read_text(encoding="utf-8")
        json.loads(tokenizer_json)
        weights = load_file(directory / WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(
            f"checkpoint {directory} is damaged: {str(error).splitlines()[0]}. Use the other of best and last, or train again."
        ) from error
    model = (build or build_model)(description)
    try:
        model.load_state_dict(
            {k: v for k, v in weights.items() if k.split(".")[0] != "heads" or k.split(".")[1] in model.heads}
        )
    except RuntimeError as error:
        raise CheckpointError(
            f"checkpoint {directory} does not fit its own model.json: {str(error).splitlines()[0]}. Train again."
        ) from error
    return TrainedModel(
        model.eval(),
        tokenizer_json,
        description.max_length,
        dict(description.tasks),
        description.encoder,
        frozenset(description.auxiliary),
    )


def build_model(description: ModelDescription) -> MultiTaskModel:
    """The model that `model.json` describes, with random weights. Raises CheckpointError for one with parts that the user wrote."""
    if description.own:
        parts = ", ".join(f"{part}: {name}" for part, name in description.own.items())
        raise CheckpointError(
            f"the model has parts of your own ({parts}), which a command cannot build. In Python, a trainer with these parts loads it (load_ckpt) "
            "and exports it (export)."
        )
    raw = dict(description.encoder_config)
    config = AutoConfig.for_model(raw.pop("model_type"), **raw)
    backbone = Encoder(new_encoder(config), pooling=description.pooling, takes_types=description.takes_types)
    rows, columns = backbone.embedding_table.shape
    heads = {
        name: make_head(name, info, backbone.hidden_size, embedding=(rows, columns))
        for name, info in description.tasks.items()
    }
    return MultiTaskModel(backbone, heads)


def load_training_state(run: Path) -> dict[str, Any]:
    """The state that `RUN/last` was saved with. Raises CheckpointError when there is none."""
    path = checkpoint_directory(run, "last") / TRAINING
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        said = str(error).partition("\n")[0] or "it ends too soon"
        raise CheckpointError(f"{path} cannot be read: {said}. Start again with --overwrite.") from error
    return state


def read_json(path: Path) -> Any:
    """A JSON file of a run. Raises CheckpointError when it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from error

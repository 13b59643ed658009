"""Checkpoints.

A directory is written under another name and then renamed, so a crash or a full disk leaves the
previous one usable.

model.safetensors   weights of encoder and heads
model.json          description to build the model from: encoder configuration, tasks with labels
and decoding tokenizer.json
training.pt         only in `last/`: optimizer, generators, counters
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel

from palm_serve.bundle.manifest import EncoderInfo, TaskInfo
from palm_trainer.config.atomic_files import NEW_SUFFIX, sync_to_disk
from palm_trainer.config.encoder_source import DESCRIPTION, OLD_SUFFIX
from palm_trainer.errors import CheckpointError, PalmError
from palm_trainer.model.checkpoint_files import checkpoint_directory
from palm_trainer.model.encoders import Encoder, new_encoder
from palm_trainer.model.encoders.encoder import Pooling
from palm_trainer.model.heads import TaskHead, make_head
from palm_trainer.model.multi_task import MultiTaskModel, TrainedModel

WEIGHTS = "model.safetensors"
TOKENIZER = "tokenizer.json"
TRAINING = "training.pt"


class ModelDescription(BaseModel):
    """Contents of `model.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format_version: int = 1
    """Version of this format."""
    encoder_config: dict[str, Any]
    """Configuration of the encoder, as Hugging Face writes it. Empty for an encoder of the user's own."""
    pooling: Pooling
    """How the vector of a text is made: `cls` or `mean`."""
    takes_types: bool
    """True if the encoder reads `token_type_ids`."""
    encoder: EncoderInfo
    """Facts about the encoder."""
    max_length: int
    """Tokens of an input, special tokens included."""
    tasks: dict[str, TaskInfo]
    """Labels, decoding, calibration and thresholds of each task."""
    auxiliary: tuple[str, ...] = ()
    """Tasks that only shape the encoder."""
    heads: dict[str, str] = {}
    """Variant of each head that is not the usual one of its kind (`prototype`), by task."""
    own: dict[str, str] = {}
    """Class name of each part that the user wrote (`backbone`, `heads.NAME`).

    The model can be built only with these classes.
    """


def describe_model(trained: TrainedModel) -> ModelDescription:
    """Return the contents of `model.json`."""
    backbone = trained.model.backbone
    custom_components = {}
    variants = {}
    for name in trained.model.heads:
        head = trained.model.head(name)
        if head.variant:
            variants[name] = head.variant
        if hasattr(head, "user"):
            custom_components[f"heads.{name}"] = _class_name(head.user)
    encoder_config = {}
    if isinstance(backbone.encoder, PreTrainedModel):
        settings = backbone.encoder.config
        encoder_config = {**settings.to_diff_dict(), "model_type": settings.model_type}
    else:
        custom_components["backbone"] = _class_name(backbone.encoder)
    return ModelDescription(
        encoder_config=encoder_config,
        pooling=backbone.pooling,
        takes_types="token_type_ids" in trained.model.input_names,
        encoder=trained.encoder,
        max_length=trained.max_length,
        tasks=trained.tasks,
        auxiliary=tuple(sorted(trained.auxiliary)),
        heads=variants,
        own=custom_components,
    )


def _class_name(component: object) -> str:
    return f"{type(component).__module__}.{type(component).__qualname__}"


def save_trained(trained: TrainedModel, directory: Path, training: Mapping[str, Any] | None = None) -> None:
    """Write a checkpoint atomically.

    Args:
        trained: model to write.
        directory: `RUN/best` or `RUN/last`, replaced as a whole.
        training: state to resume from: tensors, numbers, strings, lists and dicts only.

    Raises:
        CheckpointError: the checkpoint cannot be written. The previous one is then unchanged.
    """
    new = directory.with_name(directory.name + NEW_SUFFIX)
    old = directory.with_name(directory.name + OLD_SUFFIX)
    try:
        shutil.rmtree(new, ignore_errors=True)
        _write_files(trained, new, training)
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
            f"checkpoint {directory} could not be written: {error}. "
            "Free some space or choose another output; the previous checkpoint stands."
        ) from error


def _write_files(trained: TrainedModel, folder: Path, training: Mapping[str, Any] | None) -> None:
    """Write the files of a checkpoint to a new directory and force them to disk."""
    folder.mkdir(parents=True)
    weights = {}
    for name, tensor in trained.model.state_dict().items():
        # Copies: safetensors refuses storage that tensors share, as those of two tasks with one head do.
        weights[name] = tensor.detach().cpu().contiguous().clone()
    save_file(weights, folder / WEIGHTS)
    (folder / DESCRIPTION).write_text(describe_model(trained).model_dump_json(indent=1), encoding="utf-8")
    (folder / TOKENIZER).write_text(trained.tokenizer_json, encoding="utf-8")
    if training is not None:
        torch.save(dict(training), folder / TRAINING)
    for path in (*folder.iterdir(), folder):
        sync_to_disk(path)


def load_trained(
    run: Path, name: str = "best", build: Callable[[ModelDescription], MultiTaskModel] | None = None
) -> TrainedModel:
    """Build the model of a checkpoint in eval mode, on the CPU, in fp32.

    Args:
        run: directory of the run.
        name: `best` or `last`.
        build: builds a model with parts that the user wrote, perhaps without some heads. None:
            `build_model`.

    Raises:
        CheckpointError: the checkpoint is missing or damaged.
    """
    directory = checkpoint_directory(run, name)
    with reading(f"checkpoint {directory} is damaged", "Use the other of best and last, or train again."):
        description = read_description(directory)
        tokenizer_json = (directory / TOKENIZER).read_text(encoding="utf-8-sig")
        json.loads(tokenizer_json)
        if "backbone" not in description.own:  # one that the user wrote may have a tokenizer of another kind
            Tokenizer.from_str(tokenizer_json)
        weights = load_file(directory / WEIGHTS)
    with reading(f"checkpoint {directory} does not fit its own model.json", "Train again."):
        model = (build or build_model)(description)
        model.load_state_dict(_model_weights(weights, model))
    return TrainedModel(
        model.eval(),
        tokenizer_json,
        description.max_length,
        dict(description.tasks),
        description.encoder,
        frozenset(description.auxiliary),
    )


def _model_weights(weights: Mapping[str, Tensor], model: MultiTaskModel) -> dict[str, Tensor]:
    """Return the weights without those of heads that the model lacks."""
    model_weights = {}
    for name, tensor in weights.items():
        component, child, *_ = name.split(".")
        if component != "heads" or child in model.heads:
            model_weights[name] = tensor
    return model_weights


def build_model(description: ModelDescription) -> MultiTaskModel:
    """Build the model of a `model.json` with random weights.

    Raises:
        CheckpointError: the model has parts that the user wrote.
    """
    if description.own:
        components = ", ".join(map(": ".join, description.own.items()))
        raise CheckpointError(
            f"the model has parts of your own ({components}), which a command cannot build. "
            "In Python, a trainer with these parts loads it (load_ckpt) and exports it (export)."
        )
    backbone = build_backbone(description)
    heads = {name: build_head(description, name, backbone) for name in description.tasks}
    return MultiTaskModel(backbone, heads)


def build_head(description: ModelDescription, task: str, backbone: Encoder) -> TaskHead:
    """Build a head of a `model.json` with random weights.

    Args:
        description: the file.
        task: name of the task, whose head the user did not write.
        backbone: encoder of the model.
    """
    info = description.tasks[task]
    given_task = info.decode.given
    rows, columns = backbone.embedding_table.shape
    return make_head(
        task,
        info,
        backbone.hidden_size,
        embedding=(rows, columns),
        variant=description.heads.get(task, ""),
        given_classes=len(description.tasks[given_task].labels) if given_task else 0,
    )


def build_backbone(description: ModelDescription) -> Encoder:
    """Build the encoder of a `model.json` with random weights. It must not be one that the user wrote."""
    encoder_config = dict(description.encoder_config)
    config = AutoConfig.for_model(encoder_config.pop("model_type"), **encoder_config)
    return Encoder(new_encoder(config), pooling=description.pooling, takes_types=description.takes_types)


def load_training_state(run: Path) -> dict[str, Any]:
    """Load the training state of `RUN/last`.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    return read_training_state(checkpoint_directory(run, "last") / TRAINING)


def read_training_state(path: Path) -> dict[str, Any]:
    """Read a `training.pt`.

    Raises:
        CheckpointError: it is missing, damaged, or no mapping.
    """
    with reading(f"{path} cannot be read", "Start again with --overwrite."):
        state = torch.load(path, weights_only=True)
        if not isinstance(state, dict):
            raise TypeError(f"a {type(state).__name__} instead of a mapping")
    return state


def read_description(directory: Path) -> ModelDescription:
    """Read the `model.json` of a checkpoint. Call it in `reading`."""
    return ModelDescription.model_validate_json((directory / DESCRIPTION).read_bytes())


@contextmanager
def reading(fault: str, advice: str) -> Iterator[None]:
    """Report any failure in the block as a fault of a stored file.

    A damaged file makes the libraries that read it raise nearly anything: pydantic, torch, transformers, safetensors.

    Args:
        fault: what is wrong, with the file.
        advice: how to mend it.

    Raises:
        CheckpointError: the block raised anything but a PalmError.
    """
    try:
        yield
    except PalmError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or ["it ends too soon"]
        reason = lines[0].rstrip(".:")
        if isinstance(error, LookupError | AttributeError | ArithmeticError):  # their texts say little by themselves
            reason = f"{type(error).__name__} {reason}"
        raise CheckpointError(f"{fault}: {reason}. {advice}") from error


def read_json(path: Path) -> Any:
    """Read a JSON file of a run.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    with reading(f"{path} cannot be read", "Restore it, or train again."):
        return json.loads(path.read_text(encoding="utf-8-sig"))

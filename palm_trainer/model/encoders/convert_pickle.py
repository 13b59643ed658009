"""Conversion of PyTorch's pickled weights to safetensors.

Encoders are loaded from safetensors files only. A pickle is a program: it is read once, here, by PyTorch's restricted
reader (`weights_only=True`), which builds tensors and refuses everything else.
"""

import pickle
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from palm_trainer.config.atomic_files import new_directory, replace_file
from palm_trainer.errors import PalmError
from palm_trainer.model.encoders.shards import shard_files
from palm_trainer.model.encoders.stored_pooling import POOLING_CONFIGS

SAFE_FILES = ("model.safetensors", "model.safetensors.index.json")
PICKLED_FILES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
CONVERT_PICKLE = "Its weights are a pickle: convert them once with `palm-train models convert DIRECTORY NEW-DIRECTORY`."


def has_pickled_weights_only(folder: Path) -> bool:
    """Return True if a directory has pickled weights of PyTorch and none in safetensors."""
    has_safe_weights = any((folder / name).is_file() for name in SAFE_FILES)
    return not has_safe_weights and any((folder / name).is_file() for name in PICKLED_FILES)


def write_safe_weights(folder: Path, target: Path) -> int:
    """Write `model.safetensors` of the pickled weights of a directory.

    Args:
        folder: has `pytorch_model.bin`, or its index and shards.
        target: the file to write. It is whole or not there.

    Returns:
        The number of tensors.

    Raises:
        PalmError: a pickle is damaged, or holds anything but tensors.
    """
    tensors: dict[str, Tensor] = {}
    for file in _pickled_files(folder):
        tensors.update(_read_pickle(file))
    try:
        with replace_file(target) as temporary:
            save_file(tensors, temporary, metadata={"format": "pt"})
    except SafetensorError as error:
        raise PalmError(f"{target} could not be written: {error}. Free some space or choose another path.") from error
    return len(tensors)


def convert_pickle(source: Path, target: Path) -> int:
    """Copy an encoder's directory with its pickled weights in safetensors.

    Args:
        source: the directory of an encoder, with `pytorch_model.bin` or its shards.
        target: must not exist, or be empty.

    Returns:
        The number of tensors.

    Raises:
        PalmError: the target is not empty, or a pickle is damaged or holds anything but tensors.
    """
    with new_directory(target) as folder:
        count = write_safe_weights(source, folder / SAFE_FILES[0])
        for path in sorted(source.iterdir()):
            if path.is_file() and path.suffix in (".json", ".txt", ".model") and path.name not in PICKLED_FILES:
                shutil.copyfile(path, folder / path.name)
        for path in sorted(source.glob(POOLING_CONFIGS)):
            (folder / path.parent.name).mkdir()
            shutil.copyfile(path, folder / path.parent.name / path.name)
    return count


def _pickled_files(folder: Path) -> list[Path]:
    """Return the pickled files of a directory: one, or the shards of an index."""
    file, index = (folder / name for name in PICKLED_FILES)
    return [file] if file.is_file() else shard_files(index)


def _read_pickle(file: Path) -> dict[str, Tensor]:
    """Read the tensors of a pickle, as copies: safetensors refuses storage that tensors share."""
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, IndexError, pickle.UnpicklingError) as error:
        reason = (str(error) or "it ends too soon").splitlines()[0]
        raise PalmError(
            f"{file}: cannot be read as tensors: {reason} Download it again, or take safetensors."
        ) from error
    if not isinstance(state, dict):
        raise PalmError(f"{file} must hold tensors by name, got {type(state).__name__}. Take another encoder.")
    tensors = {}
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise PalmError(
                f"{file} must hold tensors by name, got {name!r}: {type(value).__name__}. Take another encoder."
            )
        tensors[name] = value.contiguous().clone()
    return tensors

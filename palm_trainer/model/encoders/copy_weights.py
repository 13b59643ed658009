"""Copying of pretrained weights into an existing encoder, with a report of what matched."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers.utils.hub import cached_file

from palm_trainer.errors import PalmError
from palm_trainer.model.encoders.convert_pickle import CONVERT_PICKLE, SAFE_FILES, has_pickled_weights_only
from palm_trainer.model.encoders.encoder import Encoder
from palm_trainer.model.encoders.load_pretrained import (
    CONVERT_PADDLE,
    check_packaged_files,
    has_paddle_parameters,
)
from palm_trainer.model.encoders.shards import shard_files
from palm_trainer.tokenization.encoder_files import locate_encoder

_PREFIXES = ("bert.", "ernie.", "roberta.", "transformer.", "encoder.encoder.", "backbone.encoder.")
_OLD_NAMES = (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias"))
_ZERO_AT_FIRST = "embeddings.task_type_embeddings.weight"
"""Weights without a task embedding are equivalent to weights with one of zeros."""


@dataclass(frozen=True, slots=True)
class WeightsReport:
    """Names of the tensors that were loaded, that the weights lacked, and that the encoder does not have."""

    source: str
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]

    def __str__(self) -> str:
        sentences = [f"{len(self.matched)} tensors loaded from {self.source}"]
        if self.missing:
            sentences.append(f"missing: {_first_names(self.missing)}")
        if self.unexpected:
            sentences.append(f"not used: {_first_names(self.unexpected)}")
        return "; ".join(sentences)


def load_weights(backbone: Encoder, name: str) -> WeightsReport:
    """Copy the weights of a directory, a known name or a Hugging Face id into the backbone.

    Raises:
        PalmError: there are no weights, none that the backbone has, or a tensor has another shape.
    """
    folder = _folder(name)
    encoder = backbone.encoder
    tensors = encoder.state_dict()
    loaded: dict[str, Tensor] = {}
    for saved_key, tensor in _read(folder).items():
        key = _encoder_key(saved_key, tensors)
        if not key.endswith("position_ids"):
            loaded[key] = tensor
    matched = [key for key in tensors if key in loaded]
    if not matched:
        raise PalmError(
            f"{folder}: none of its {len(loaded)} tensors belongs to the backbone ({_first_names(loaded)}); "
            f"the backbone has {_first_names(tensors)}. "
            "Take the weights that go with its configuration, or convert them with `palm-train models convert`."
        )
    for key in matched:
        if loaded[key].shape != tensors[key].shape:
            raise PalmError(
                f"{folder}: '{key}' is {list(loaded[key].shape)}, but {list(tensors[key].shape)} in the backbone. "
                "Build the backbone from the configuration that lies beside the weights."
            )
    converted_weights = {}
    for key in matched:
        converted_weights[key] = loaded[key].to(tensors[key].dtype)
    encoder.load_state_dict({**tensors, **converted_weights})
    missing = []
    for key in tensors:
        if key not in loaded and not key.endswith("position_ids") and key != _ZERO_AT_FIRST:
            missing.append(key)
    unexpected = [key for key in loaded if key not in tensors]
    return WeightsReport(str(folder), tuple(matched), tuple(missing), tuple(unexpected))


def _folder(name: str) -> Path:
    """Return the directory of the weights: `params/` of it, in the original's layout."""
    location = locate_encoder(name)
    check_packaged_files(name, location)
    if not Path(location).is_dir():
        return _cached_folder(location, name)
    for folder in (Path(location), Path(location) / "params"):
        if _find_weights_file(folder) is not None:
            return folder
    advice = f"Weights are in {SAFE_FILES[0]}."
    if has_paddle_parameters(location):
        advice = CONVERT_PADDLE
    elif any(has_pickled_weights_only(folder) for folder in (Path(location), Path(location) / "params")):
        advice = CONVERT_PICKLE
    raise PalmError(f"{location}: no pretrained weights there. {advice}")


def _cached_folder(repository: str, name: str) -> Path:
    """Return the directory of downloaded weights."""
    for file in SAFE_FILES:
        try:
            return Path(str(cached_file(repository, file))).parent
        except OSError:
            continue
    raise PalmError(
        f"'{name}' is no directory, and no weights for it could be had from the hub. "
        "Give a directory, or download it first: downloader.download('pretrain', NAME, DIR)."
    )


def _find_weights_file(folder: Path) -> Path | None:
    """Return the first file of weights in a directory; None if it has none."""
    for name in SAFE_FILES:
        if (folder / name).is_file():
            return folder / name
    return None


def _read(folder: Path) -> dict[str, Tensor]:
    """Read all weights of a directory, also if they are sharded."""
    file = _find_weights_file(folder)
    assert file is not None
    tensors: dict[str, Tensor] = {}
    for path in [file] if file.suffix == ".safetensors" else shard_files(file):
        try:
            tensors.update(load_file(path))
        except (OSError, ValueError, SafetensorError) as error:
            raise PalmError(f"{path}: cannot be read: {str(error).splitlines()[0]}. Fetch it again.") from error
    return tensors


def _encoder_key(key: str, encoder_keys: Collection[str]) -> str:
    """Return the encoder's name of a tensor that was saved in a larger model or under an old name."""
    for old, new in _OLD_NAMES:
        key = key.replace(old, new)
    for prefix in _PREFIXES:
        if key.startswith(prefix) and key.removeprefix(prefix) in encoder_keys:
            return key.removeprefix(prefix)
    return key


def _first_names(names: Iterable[str]) -> str:
    """List the first four names and count the others."""
    names = list(names)
    listed = ", ".join(names[:4])
    return f"{listed} and {len(names) - 4} more" if len(names) > 4 else listed

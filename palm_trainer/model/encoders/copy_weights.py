"""Pretrained weights into an encoder that exists, with an account of what matched."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers.utils.hub import cached_file

from palm_trainer.errors import PalmError
from palm_trainer.model.encoders.encoder import Encoder
from palm_trainer.model.encoders.load_pretrained import CONVERT_PADDLE, has_paddle_parameters, locate_encoder

_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_PREFIXES = ("bert.", "ernie.", "roberta.", "transformer.", "encoder.encoder.", "backbone.encoder.")
_OLD_NAMES = (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias"))
_ZERO_AT_FIRST = "embeddings.task_type_embeddings.weight"
"""Weights without a task embedding are as good as those with one of zeros."""


@dataclass(frozen=True, slots=True)
class WeightsReport:
    """Names of the tensors that were loaded, that the weights lacked, and that the encoder has no place for."""

    source: str
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"{len(self.matched)} tensors loaded from {self.source}"]
        parts += [f"missing: {_some(self.missing)}"] if self.missing else []
        parts += [f"not used: {_some(self.unexpected)}"] if self.unexpected else []
        return "; ".join(parts)


def load_weights(backbone: Encoder, name: str) -> WeightsReport:
    """Copies the weights of a directory, a known name or a Hugging Face id into the backbone.

    Raises:
        PalmError: no weights there, none that the backbone has a place for, or a tensor of another shape.
    """
    folder = _folder(name)
    encoder = backbone.encoder
    own = encoder.state_dict()
    given = {_plain(key, own): value for key, value in _read(folder).items()}
    given = {key: value for key, value in given.items() if not key.endswith("position_ids")}
    matched = [key for key in own if key in given]
    missing = [key for key in own if key not in given and not key.endswith("position_ids")]
    if not matched:
        raise PalmError(
            f"{folder}: none of its {len(given)} tensors belongs to the backbone ({_some(given)}); the backbone has {_some(own)}. "
            "Take the weights that go with its configuration, or convert them with `palm-train models convert`."
        )
    for key in matched:
        if given[key].shape != own[key].shape:
            raise PalmError(
                f"{folder}: '{key}' is {list(given[key].shape)}, but {list(own[key].shape)} in the backbone. "
                f"Build the backbone from the configuration that lies beside the weights."
            )
    encoder.load_state_dict({**own, **{key: given[key].to(own[key].dtype) for key in matched}})
    return WeightsReport(
        str(folder),
        tuple(matched),
        tuple(key for key in missing if key != _ZERO_AT_FIRST),
        tuple(key for key in given if key not in own),
    )


def _folder(name: str) -> Path:
    """The directory of the weights; `params/` below it where the original's layout has them there."""
    where = locate_encoder(name)
    if not Path(where).is_dir():
        for file in _FILES:
            try:
                return Path(str(cached_file(where, file))).parent
            except OSError:
                continue
        raise PalmError(
            f"'{name}' is no directory, and no weights for it could be had from the hub. "
            "Give a directory, or download it first: downloader.download('pretrain', NAME, DIR)."
        )
    for folder in (Path(where), Path(where) / "params"):
        if any((folder / file).is_file() for file in _FILES):
            return folder
    way_out = CONVERT_PADDLE if has_paddle_parameters(where) else f"Weights are in {' or '.join(_FILES[::2])}."
    raise PalmError(f"{where}: no pretrained weights there. {way_out}")


def _read(folder: Path) -> dict[str, Tensor]:
    file = next(folder / name for name in _FILES if (folder / name).is_file())
    try:
        if file.suffix != ".json":
            return _read_one(file)
        shards = sorted(set(json.loads(file.read_text(encoding="utf-8"))["weight_map"].values()))
        return {key: value for shard in shards for key, value in _read_one(folder / shard).items()}
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise PalmError(f"{file}: cannot be read: {str(error).splitlines()[0]}. Fetch it again.") from error


def _read_one(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".safetensors":
        return load_file(file)
    state: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    return state


def _plain(key: str, own: Iterable[str]) -> str:
    """The encoder's own name of a tensor that was saved as part of a larger model, or under an old name."""
    for old, new in _OLD_NAMES:
        key = key.replace(old, new)
    names = set(own) if not isinstance(own, dict) else own
    return next((key.removeprefix(p) for p in _PREFIXES if key.startswith(p) and key.removeprefix(p) in names), key)


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:4]) + (f" and {len(listed) - 4} more" if len(listed) > 4 else "")

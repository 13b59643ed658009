"""The pooling that an encoder was trained with, as sentence-transformers stores it beside the weights."""

import json
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeAlias

from palm_trainer.errors import PalmError
from palm_trainer.model.encoders.encoder import Pooling

PoolingSetting: TypeAlias = Literal["auto", "cls", "mean"]
"""Value of `encoder.pooling`. `auto`: what the encoder's folder says, else `cls`."""

MODULES = "modules.json"
POOLING_CONFIG = "1_Pooling/config.json"
"""Where sentence-transformers stores its modules, and the settings of the pooling where no other place is named."""
POOLING_CONFIGS = "*_Pooling/config.json"
"""Settings of a pooling in the folder of an encoder, as a pattern."""

_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Modes by the keys of sentence-transformers before version 6, which has one key `pooling_mode`."""
_SET_IT = "Set encoder.pooling to 'cls' or 'mean'."


def read_pooling(name: str, find_file: Callable[[str], Path | None], *, cls_is_last: bool = False) -> Pooling:
    """Return the pooling that the files of an encoder name, `cls` where they name none.

    Args:
        name: of the encoder, for messages.
        find_file: returns a file of the encoder by its path in the folder, None where there is none.
        cls_is_last: the classification token is the last one (XLNet).

    Raises:
        PalmError: a file is damaged, or names a pooling that PALM does not have.
    """
    modules = find_file(MODULES)
    path = POOLING_CONFIG if modules is None else _pooling_config(name, modules)
    if path is None:
        return "cls"
    settings = find_file(path)
    if settings is None:
        if modules is None:
            return "cls"
        raise PalmError(f"encoder '{name}': {MODULES} names {path}, which is missing. {_SET_IT}")
    modes = _modes(_read_json(name, settings, dict))
    if modes == ["lasttoken"] and cls_is_last:
        return "cls"
    if modes == ["cls"]:
        return "cls"
    if modes == ["mean"]:
        return "mean"
    raise PalmError(
        f"encoder '{name}': the pooling of {path} must be cls or mean, got {' and '.join(map(str, modes))}. "
        f"PALM has no other. {_SET_IT}"
    )


def _pooling_config(name: str, modules: Path) -> str | None:
    """Return the path of the settings of the pooling module, None where there is no such module."""
    for module in _read_json(name, modules, list):
        if not isinstance(module, dict) or not str(module.get("type", "")).endswith(".Pooling"):
            continue
        folder = PurePosixPath(str(module.get("path", "")))
        if folder.is_absolute() or ".." in folder.parts:
            raise PalmError(f"encoder '{name}': {MODULES} must name a folder of its own, got '{folder}'. {_SET_IT}")
        return str(folder / "config.json")
    return None


def _modes(settings: dict[str, Any]) -> list[Any]:
    """Return the modes of a pooling module. Without any it is the mean, as in sentence-transformers."""
    named = settings.get("pooling_mode")
    if named is not None:
        return list(named) if isinstance(named, list) else [named]
    modes = []
    for flag, mode in _FLAGS.items():
        if settings.get(flag):
            modes.append(mode)
    return modes or ["mean"]


def _read_json(name: str, path: Path, kind: type) -> Any:
    try:
        value = json.loads(path.read_bytes())
        if not isinstance(value, kind):
            raise TypeError(f"it holds a {type(value).__name__} instead of a {kind.__name__}")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise PalmError(f"encoder '{name}': {path} cannot be read: {error}. {_SET_IT}") from error
    return value

"""Keys that moved to another section: the old spelling still works, and the user is told the new one."""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["MOVED_KEYS", "MovedKeyWarning", "move_old_keys", "new_spelling", "warn_moved"]

MOVED_KEYS: Mapping[str, str] = {
    "train.balancing": "train.balancing.method",
    "train.balancing_learning_rate": "train.balancing.learning_rate",
    "train.dwa_temperature": "train.balancing.dwa_temperature",
    "train.gradnorm_alpha": "train.balancing.gradnorm_alpha",
    "train.cagrad_c": "train.balancing.cagrad_c",
    "train.teachers": "train.distillation.teachers",
    "train.distill_temperature": "train.distillation.temperature",
    "train.distill_weight": "train.distillation.weight",
    "train.r_drop": "train.regularization.r_drop",
    "train.fgm": "train.regularization.fgm",
    "train.word_dropout": "train.regularization.word_dropout",
    "train.label_smoothing": "train.regularization.label_smoothing",
    "train.ema_decay": "train.regularization.ema_decay",
    "train.layer_decay": "train.regularization.layer_decay",
    "train.select": "train.checkpoints.select",
    "train.patience": "train.checkpoints.patience",
    "train.average_best": "train.checkpoints.average_best",
    "train.best_per_task": "train.checkpoints.best_per_task",
    "train.save_every_steps": "train.checkpoints.save_every_steps",
}
"""Old path of each moved key -> new path. The old paths are accepted for one version."""


class MovedKeyWarning(FutureWarning):
    """A configuration spells a key as an earlier version did."""


def new_spelling(path: str, value: object) -> str | None:
    """Return the new path of an old key, None where the path is no old one.

    The name of a section was the name of a key before: `train.balancing = "dwa"` is old, a table is not.
    """
    new_path = MOVED_KEYS.get(path)
    if new_path is not None and new_path.startswith(f"{path}.") and isinstance(value, Mapping):
        return None
    return new_path


def move_old_keys(raw: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Move the old keys of a raw configuration to their new places, in place.

    Returns:
        The old paths that were moved, and a fault for each key that stands in both spellings.
    """
    moved: list[str] = []
    faults: list[str] = []
    for old_path, new_path in _old_keys(raw):
        section, key = _parent(raw, old_path)
        value = section.pop(key)
        table, new_key = _parent(raw, new_path)
        if new_key in table:
            faults.append(f"{old_path} is the old spelling of {new_path}, and both are set. Remove {old_path}.")
            continue
        table[new_key] = value
        moved.append(old_path)
    return moved, faults


def warn_moved(old_path: str, root: str = "train") -> None:
    """Warn that a key has a new spelling.

    Args:
        old_path: one of `MOVED_KEYS`.
        root: what the user writes for the section `train`; the Python API calls it `options`.
    """
    old_key = root + old_path.removeprefix("train")
    new_key = root + MOVED_KEYS[old_path].removeprefix("train")
    message = f"{old_key} is now {new_key}. Rename it, since the next version refuses the old spelling."
    warnings.warn(message, MovedKeyWarning, stacklevel=3)


def _old_keys(raw: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield old path and new path of each old key that the raw configuration holds."""
    for old_path in MOVED_KEYS:
        section = raw.get(old_path.partition(".")[0])
        key = old_path.partition(".")[2]
        if not isinstance(section, dict) or key not in section:
            continue
        new_path = new_spelling(old_path, section[key])
        if new_path is not None:
            yield old_path, new_path


def _parent(raw: dict[str, Any], path: str) -> tuple[dict[str, Any], str]:
    """Return the table that holds a key, and the key's last part. Missing tables are added.

    Where something else stands in the place of a table, a table of no consequence is returned: the check reports it.
    """
    *parents, key = path.split(".")
    table = raw
    for name in parents:
        inner = table.setdefault(name, {})
        table = inner if isinstance(inner, dict) else {}
    return table, key

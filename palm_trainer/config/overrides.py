"""`--set KEY=VALUE`: change a raw configuration before it is checked."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from palm_trainer.config.moved_keys import MOVED_KEYS, new_spelling
from palm_trainer.config.rules import nearest, nearest_path
from palm_trainer.config.schema import DATA_FORMATS, ENCODERS, SECTIONS, TASK_KINDS, TrainConfig
from palm_trainer.config.section import ConfigSection, inner_section, key_paths

_UNIONS: Mapping[str, Any] = {"encoder": ENCODERS, "data": DATA_FORMATS, "tasks": TASK_KINDS}


@dataclass
class Overrides:
    """What `--set` did to a raw configuration: the old keys that it used, and its faults."""

    old_keys: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def apply_overrides(raw: dict[str, Any], overrides: Sequence[str]) -> Overrides:
    """Set each `KEY=VALUE` in the raw configuration, in place.

    Faults of the keys are returned. Those of the values are found by the check.
    """
    result = Overrides()
    new_keys = set()
    for override in overrides:
        key, equals, text = override.partition("=")
        key, value = key.strip(), _toml_value(text.strip())
        if not equals:
            result.faults.append(_malformed(override))
            continue
        new_key = new_spelling(key, value)
        if new_key is not None:
            result.old_keys.append(key)
        else:
            new_keys.add(key)
        fault = _set(raw, override, new_key or key, value)
        if fault is not None:
            result.faults.append(fault)
    for old_key in dict.fromkeys(result.old_keys):
        new_key = MOVED_KEYS[old_key]
        if new_key in new_keys:
            result.faults.append(
                f"--set {old_key} is the old spelling of {new_key}, and both are set. Remove --set {old_key}."
            )
            result.old_keys = [key for key in result.old_keys if key != old_key]
    return result


def _set(raw: dict[str, Any], override: str, key: str, value: object) -> str | None:
    """Set one key in place, and return its fault, None where it has none."""
    section, *names = key.split(".")
    if not all((section, *names)) or not names:
        return _malformed(override)
    if section not in SECTIONS:
        return f"--set {key}: '{section}' is not a section.{nearest(section, SECTIONS)}"
    table = raw.setdefault(section, {})
    if section in ("data", "tasks"):
        if not isinstance(table, dict) or names[0] not in table:
            return f"--set {key}: '{names[0]}' is not in [{section}].{nearest(names[0], table)}"
        table, names = table[names[0]], names[1:]
    if section == "train":
        model: type[ConfigSection] = TrainConfig
        while len(names) > 1 and (inner := inner_section(model, names[0])) is not None:
            table = table.setdefault(names[0], {}) if isinstance(table, dict) else table
            model, names = inner, names[1:]
        paths = key_paths(model)
    else:
        keys = _UNIONS[section].all_keys()
        paths = dict(zip(keys, keys, strict=True))
    if len(names) != 1 or paths.get(names[0]) != names[0] or not isinstance(table, dict):
        return f"--set {key}: '{'.'.join(names)}' is not a key.{nearest_path('.'.join(names), paths)}"
    table[names[0]] = value
    return None


def _malformed(override: str) -> str:
    return f"--set must be KEY=VALUE with a dotted key, got {override!r}. An example is train.epochs=3."


def _toml_value(text: str) -> object:
    """Return a TOML value, or the text itself where it is none: a bare string needs no quotes."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):  # no TOML, thousands of digits, thousands of brackets
        return text
    return parsed["value"] if len(parsed) == 1 else text

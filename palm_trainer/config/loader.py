"""The configuration of a run: TOML in, frozen and checked sections out, every fault in one message.

Data paths are relative to the file, `train.output` to the working directory. `${NAME}` in any string is the environment
(`$${NAME}` stands for itself). `KEY=VALUE` overrides are applied before the check, so they are held to the same rules.
"""

import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tomli_w
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from palm_trainer.config.moved_keys import MOVED_KEYS, move_old_keys, new_spelling, warn_moved
from palm_trainer.config.rules import (
    EVERY_OPTION,
    FORMAT_OPTIONS,
    KIND_OF,
    SCRATCH_ONLY,
    cross_faults,
    nearest,
    nearest_path,
)
from palm_trainer.config.schema import (
    DataConfig,
    EncoderConfig,
    Section,
    TaskConfig,
    TrainConfig,
    inner_section,
    key_paths,
)
from palm_trainer.errors import ConfigError

__all__ = ["Config", "DataConfig", "EncoderConfig", "TaskConfig", "TrainConfig", "check_section", "load_config"]

_VARIABLE = re.compile(r"\$(\$)?\{([A-Za-z_][A-Za-z0-9_]*)\}")


class Config(Section):
    """A checked configuration."""

    encoder: EncoderConfig
    data: dict[str, DataConfig]
    tasks: dict[str, TaskConfig]
    train: TrainConfig

    @property
    def reference(self) -> str:
        """Name of the data set whose passes are counted as epochs."""
        return self.train.reference or next(iter(self.data))

    def dump_toml(self) -> str:
        """The whole configuration, defaults included, as TOML that `load_config` reads back to an equal one."""
        raw = self.model_dump(mode="json", exclude_none=True)
        if self.encoder.model != "scratch":
            raw["encoder"] = {k: v for k, v in raw["encoder"].items() if k not in SCRATCH_ONLY}
        for name, data in self.data.items():
            unfit = EVERY_OPTION - FORMAT_OPTIONS[data.format]
            raw["data"][name] = {k: v for k, v in raw["data"][name].items() if k not in unfit and v != []}
        for name, task in self.tasks.items():
            raw["tasks"][name] = {k: v for k, v in raw["tasks"][name].items() if KIND_OF.get(k, task.kind) == task.kind}
        return tomli_w.dumps(_map_strings(raw, lambda text: _VARIABLE.sub(lambda m: "$" + m[0], text)))


_SECTIONS: Mapping[str, type[Section]] = {
    "encoder": EncoderConfig,
    "data": DataConfig,
    "tasks": TaskConfig,
    "train": TrainConfig,
}
_RUN_FILES = ("best", "last", "events.jsonl", "metrics.json")
"""Files beside a config.toml that make it the one of a run directory."""
_Model = TypeVar("_Model", bound=Section)


def load_config(path: Path, overrides: Sequence[str] = (), output: Path | None = None) -> Config:
    """Reads, completes and checks a configuration.

    Args:
        path: TOML file.
        overrides: `KEY=VALUE` each, the key dotted (`train.epochs=3`), the value TOML or a bare string.
        output: replaces `train.output`.

    Raises:
        ConfigError: with all faults, a line each.
    """
    raw = _read_toml(path)
    moved, faults = move_old_keys(raw)
    if _is_of_a_run(path):
        moved = []
    old_overrides: list[str] = []
    for override in overrides:
        faults += _apply(raw, override, old_overrides)
    keys = {override.partition("=")[0].strip() for override in overrides}
    for old_path in dict.fromkeys(old_overrides):
        new_path = MOVED_KEYS[old_path]
        if new_path in keys:
            faults.append(
                f"--set {old_path} is the old spelling of {new_path}, and both are set. Remove --set {old_path}."
            )
            old_overrides.remove(old_path)
    for old_path in dict.fromkeys([*moved, *old_overrides]):
        warn_moved(old_path)
    if output is not None and isinstance(raw.setdefault("train", {}), dict):
        raw["train"]["output"] = str(output)
    raw = _expand(raw, faults)
    config = _check(raw, path.parent.resolve(), faults)
    if config is None:
        listed = "\n".join(f"  {fault}" for fault in dict.fromkeys(faults))
        raise ConfigError(f"{path}: {len(set(faults))} fault{'s' * (len(set(faults)) > 1)}\n{listed}")
    return config


def check_section(model: type[_Model], values: Mapping[str, Any], where: str) -> _Model:
    """A section from values in Python, under the rules of a file. Raises ConfigError with all faults, a line each that begins with `where`."""
    faults: list[str] = []
    checked = _section(model, dict(values), where, Path(), faults)
    if checked is None:
        raise ConfigError("\n".join(faults))
    return checked


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; `palm-train init DATA` writes a configuration") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}; strings need quotes, true and false are lower case") from None


def _is_of_a_run(path: Path) -> bool:
    """True for the config.toml of a run directory, which an earlier version may have written."""
    return path.name == "config.toml" and any((path.parent / name).exists() for name in _RUN_FILES)


def _apply(raw: dict[str, Any], override: str, moved: list[str]) -> list[str]:
    """Sets one `KEY=VALUE` in place; faults of the key are returned, those of the value are found by the check.

    An old key is set in its new place, and added to `moved`.
    """
    key, equals, text = override.partition("=")
    key, value = key.strip(), _toml_value(text.strip())
    new_key = new_spelling(key, value)
    if new_key is not None:
        moved.append(key)
        key = new_key
    parts = key.split(".")
    if not equals or not all(parts) or len(parts) < 2:
        return [f"--set {override!r}: not KEY=VALUE with a dotted key; write for example train.epochs=3"]
    if parts[0] not in _SECTIONS:
        return [f"--set {key}: unknown section '{parts[0]}'{nearest(parts[0], _SECTIONS)}"]
    model = _SECTIONS[parts[0]]
    table = raw.setdefault(parts[0], {})
    names = parts[1:]
    if parts[0] in ("data", "tasks"):
        if not isinstance(table, dict) or names[0] not in table:
            return [f"--set {key}: no '{names[0]}' in [{parts[0]}]{nearest(names[0], table)}"]
        table, names = table[names[0]], names[1:]
    while len(names) > 1 and isinstance(table, dict) and (inner := inner_section(model, names[0])) is not None:
        model, table, names = inner, table.setdefault(names[0], {}), names[1:]
    known = model.model_fields
    if len(names) != 1 or names[0] not in known or not isinstance(table, dict):
        return [f"--set {key}: unknown key '{'.'.join(names)}'{nearest_path('.'.join(names), key_paths(model))}"]
    table[names[0]] = value
    return []


def _toml_value(text: str) -> object:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if len(parsed) == 1 else text


def _expand(raw: dict[str, Any], faults: list[str]) -> dict[str, Any]:
    def replace(match: re.Match[str]) -> str:
        escaped, name = match.groups()
        if escaped:
            return match[0][1:]
        if name not in os.environ:
            faults.append(f"${{{name}}}: no such environment variable; set {name}, or write the path itself")
        return os.environ.get(name, match[0])

    expanded: dict[str, Any] = _map_strings(raw, lambda text: _VARIABLE.sub(replace, text))
    return expanded


def _map_strings(value: Any, change: Callable[[str], str]) -> Any:
    """The same structure with every string value changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: _map_strings(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [_map_strings(item, change) for item in value]
    return value


def _check(raw: dict[str, Any], base: Path, faults: list[str]) -> Config | None:
    """The configuration, or None with at least one fault. Each part is checked for itself: no fault hides another."""
    faults += [f"{key}: unknown section{nearest(key, _SECTIONS)}" for key in raw if key not in _SECTIONS]
    encoder = _section(EncoderConfig, raw.get("encoder", {}), "encoder", base, faults)
    train = _section(TrainConfig, raw.get("train", {}), "train", base, faults)
    named: dict[str, dict[str, Any]] = {}
    for section, example in (("data", "[data.atis]"), ("tasks", "[tasks.intent]")):
        tables = raw.get(section)
        if not isinstance(tables, dict) or not tables:
            faults.append(f"{section}: missing; add a table such as {example}")
            tables = {}
        model = _SECTIONS[section]
        named[section] = {n: _section(model, table, f"{section}.{n}", base, faults) for n, table in tables.items()}
    faults += cross_faults(**{key: table if isinstance(table := raw.get(key), dict) else {} for key in _SECTIONS})
    if faults:
        return None
    assert encoder is not None
    assert train is not None
    encoder = encoder.model_copy(update={"model": _local_model(encoder.model, base)})
    return Config(encoder=encoder, data=named["data"], tasks=named["tasks"], train=train)


def _local_model(model: str, base: Path) -> str:
    """A local directory as an absolute path; any other name as it is."""
    path = base / Path(model).expanduser()
    return str(path.resolve()) if model.startswith((".", "~")) or path.is_dir() else model


def _section(model: type[_Model], value: object, where: str, base: Path, faults: list[str]) -> _Model | None:
    if not isinstance(value, dict):
        faults.append(f"{where}: {value!r} is not a table; write [{where}] and its keys below")
        return None
    try:
        return model.model_validate(value, context={"base": base})
    except ValidationError as error:
        faults += [_message(where, model, fault) for fault in error.errors()]
        return None


def _message(where: str, model: type[Section], fault: ErrorDetails) -> str:
    path = ".".join([where, *map(str, fault["loc"])])
    key = str(fault["loc"][0]) if fault["loc"] else ""
    if fault["type"] == "model_type":
        return f"{path}: {fault['input']!r} is not a table; write [{path}] and its keys below"
    if len(fault["loc"]) > 1 and (inner := inner_section(model, key)) is not None:
        return _message(f"{where}.{key}", inner, fault | {"loc": fault["loc"][1:]})
    if fault["type"] == "missing":
        return f"{path}: missing; add `{key} = ...` to [{where}]" + (
            " or give --output" if path == "train.output" else ""
        )
    if fault["type"] == "extra_forbidden":
        return f"{path}: unknown key{nearest_path(key, key_paths(model))}"
    if fault["type"] == "too_short":
        return f"{path}: an empty list; name at least one"
    said = fault["msg"].removeprefix("Value error, ").replace("Input should", "must").replace("String should", "must")
    return f"{path}: {said}, not {fault['input']!r}; change it"

"""The configuration of a run: TOML in, frozen and checked sections out, every fault in one message.

Data paths are relative to the file, `train.output` to the working directory. `${NAME}` in any string is the environment
(`$${NAME}` stands for itself). `KEY=VALUE` overrides are applied before the check, so they are held to the same rules.
"""

import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tomli_w
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from palm_trainer.config.rules import EVERY_OPTION, FORMAT_OPTIONS, KIND_OF, SCRATCH_ONLY, cross_faults, nearest
from palm_trainer.config.schema import DataConfig, EncoderConfig, Section, TaskConfig, TrainConfig
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
    faults: list[str] = []
    for override in overrides:
        faults += _apply(raw, override)
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


def _apply(raw: dict[str, Any], override: str) -> list[str]:
    """Sets one `KEY=VALUE` in place; faults of the key are returned, those of the value are found by the check."""
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts) or len(parts) < 2:
        return [f"--set {override!r}: not KEY=VALUE with a dotted key; write for example train.epochs=3"]
    if parts[0] not in _SECTIONS:
        return [f"--set {key}: unknown section '{parts[0]}'{nearest(parts[0], _SECTIONS)}"]
    known: Iterable[str] = _SECTIONS[parts[0]].model_fields
    table = raw.setdefault(parts[0], {})
    names = parts[1:]
    if parts[0] in ("data", "tasks"):
        if not isinstance(table, dict) or names[0] not in table:
            return [f"--set {key}: no '{names[0]}' in [{parts[0]}]{nearest(names[0], table)}"]
        table, names = table[names[0]], names[1:]
    if len(names) != 1 or names[0] not in known or not isinstance(table, dict):
        return [f"--set {key}: unknown key '{'.'.join(names)}'{nearest('.'.join(names), known)}"]
    table[names[0]] = _toml_value(text.strip())
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


def _message(where: str, model: type[BaseModel], fault: ErrorDetails) -> str:
    path = ".".join([where, *map(str, fault["loc"])])
    key = str(fault["loc"][0]) if fault["loc"] else ""
    if fault["type"] == "missing":
        return f"{path}: missing; add `{key} = ...` to [{where}]" + (
            " or give --output" if path == "train.output" else ""
        )
    if fault["type"] == "extra_forbidden":
        return f"{path}: unknown key{nearest(key, model.model_fields)}"
    if fault["type"] == "too_short":
        return f"{path}: an empty list; name at least one"
    said = fault["msg"].removeprefix("Value error, ").replace("Input should", "must").replace("String should", "must")
    return f"{path}: {said}, not {fault['input']!r}; change it"

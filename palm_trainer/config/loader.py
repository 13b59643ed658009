"""Load a configuration: TOML in, frozen and checked sections out, every fault in one message.

Data paths are relative to the file, `train.output` to the working directory. `${NAME}` in any string is the value of
an environment variable, `$${NAME}` the text `${NAME}`. `KEY=VALUE` overrides are applied before the check, so that
the same rules hold for them.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import SerializeAsAny

from palm_serve.system.files import read_toml
from palm_trainer.config.check import check_member, check_section, check_table
from palm_trainer.config.encoder_source import stored_max_length
from palm_trainer.config.mappings import absent
from palm_trainer.config.moved_keys import move_old_keys, warn_moved
from palm_trainer.config.overrides import apply_overrides
from palm_trainer.config.rules import cross_faults, nearest
from palm_trainer.config.schema import (
    DATA_FORMATS,
    ENCODERS,
    SECTIONS,
    TASK_KINDS,
    ConfigSection,
    DataConfig,
    EncoderConfig,
    PretrainedEncoderConfig,
    SectionUnion,
    TaskConfig,
    TrainConfig,
)
from palm_trainer.errors import ConfigError

__all__ = ["Config", "DataConfig", "EncoderConfig", "TaskConfig", "TrainConfig", "check_section", "load_config"]

_VARIABLE = re.compile(r"\$(\$)?\{([A-Za-z_][A-Za-z0-9_]*)\}")
_DEPTH = 20
"""Levels of tables and lists that a configuration may have. The deepest key has five."""
_TOO_DEEP = f"values must not be nested deeper than {_DEPTH} levels. Write them as sections."
_RUN_FILES = ("best", "last", "events.jsonl", "metrics.json")
"""Files beside a config.toml that make it the one of a run directory."""


class Config(ConfigSection):
    """A checked configuration."""

    encoder: SerializeAsAny[EncoderConfig]
    data: dict[str, SerializeAsAny[DataConfig]]
    tasks: dict[str, SerializeAsAny[TaskConfig]]
    train: TrainConfig

    @property
    def reference(self) -> str:
        """Name of the data set whose passes are counted as epochs."""
        return self.train.reference or next(iter(self.data))

    def dump_toml(self) -> str:
        """Return the whole configuration, defaults included, as TOML that `load_config` reads back to an equal one."""
        raw = self.model_dump(mode="json", exclude_none=True)
        for name, data in raw["data"].items():
            raw["data"][name] = _without_empty_lists(data)
        return tomli_w.dumps(_map_strings(raw, _escape_variables))


def load_config(
    path: Path,
    overrides: Sequence[str] = (),
    output: Path | None = None,
    *,
    default_output: Path | None = None,
    review: Path | None = None,
) -> Config:
    """Read, complete and check a configuration.

    Args:
        path: TOML file.
        overrides: `KEY=VALUE` each, the key dotted (`train.epochs=3`), the value TOML or a bare string.
        output: replaces `train.output`.
        default_output: `train.output` of a file without one.
        review: decisions about rows that all data sets get, beside those of `data.NAME.review`.

    Raises:
        ConfigError: with all faults, a line each.
    """
    raw = _read_toml(path)
    moved, faults = move_old_keys(raw)
    if _is_of_a_run(path):
        moved = []
        _keep_old_meanings(raw)
    applied = apply_overrides(raw, overrides)
    faults += applied.faults
    for old_path in dict.fromkeys([*moved, *applied.old_keys]):
        warn_moved(old_path)
    if isinstance(raw.setdefault("train", {}), dict):
        if output is not None:
            raw["train"]["output"] = str(output)
        elif default_output is not None:
            raw["train"].setdefault("output", str(default_output))
    raw = _expand(raw, faults)
    config = _check(raw, path.parent.resolve(), faults)
    if config is None:
        lines = dict.fromkeys(faults)
        listed = "\n".join(f"  {fault}" for fault in lines)
        raise ConfigError(f"{path}: {len(lines)} fault{'s' * (len(lines) > 1)}\n{listed}")
    return config if review is None else _with_review(config, review)


def _is_of_a_run(path: Path) -> bool:
    """True for the config.toml of a run directory, which an earlier version may have written."""
    return path.name == "config.toml" and any((path.parent / name).exists() for name in _RUN_FILES)


def _keep_old_meanings(raw: dict[str, Any]) -> None:
    """Give keys that are missing in the config.toml of a run the meaning that they had before they existed, in place."""
    if isinstance(raw.setdefault("encoder", {}), dict):
        raw["encoder"].setdefault("pooling", "cls")  # the default of the time before `auto`
    if isinstance(raw.get("train"), dict):
        raw["train"].setdefault("crf_learning_rate", None)


def _read_toml(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise ConfigError(f"{path}: no such file. `palm-train init DATA` writes a configuration.")
    table = read_toml(path, ConfigError)
    if _is_deeper(table, _DEPTH):
        raise ConfigError(f"{path}: {_TOO_DEEP}")
    return table


def _is_deeper(value: object, depth: int) -> bool:
    """Return True for a value with more than `depth` levels of tables and lists."""
    if not isinstance(value, dict | list):
        return False
    items = value.values() if isinstance(value, dict) else value
    return depth == 0 or any(_is_deeper(item, depth - 1) for item in items)


def _expand(raw: dict[str, Any], faults: list[str]) -> dict[str, Any]:
    """Return the raw configuration with the values of environment variables."""

    def replace(match: re.Match[str]) -> str:
        escaped, name = match.groups()
        if escaped:
            return match[0][1:]
        if name not in os.environ:
            faults.append(f"${{{name}}} must be an environment variable. Set {name}, or write the path itself.")
        return os.environ.get(name, match[0])

    expanded: dict[str, Any] = _map_strings(raw, lambda text: _VARIABLE.sub(replace, text))
    return expanded


def _escape_variables(text: str) -> str:
    """Return a text that `_expand` turns back into this one."""
    return _VARIABLE.sub(lambda match: "$" + match[0], text)


def _without_empty_lists(table: Mapping[str, Any]) -> dict[str, Any]:
    filled = {}
    for key, value in table.items():
        if value != []:
            filled[key] = value
    return filled


def _map_strings(value: Any, change: Callable[[str], str]) -> Any:
    """Return the same structure with every string value changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: _map_strings(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [_map_strings(item, change) for item in value]
    return value


def _check(raw: dict[str, Any], base: Path, faults: list[str]) -> Config | None:
    """Return the configuration, or None with at least one fault. Each part is checked by itself: no fault hides another."""
    length_of_run = _length_of_run(raw.get("encoder"), base)
    if length_of_run is not None:
        raw = {**raw, "encoder": {**raw["encoder"], "max_length": length_of_run}}
    for key in absent(raw, SECTIONS):
        faults.append(f"{key} is not a section.{nearest(key, SECTIONS)}")
    encoder = check_member(ENCODERS, raw.get("encoder", {}), "encoder", base, faults)
    train = check_table(TrainConfig, raw.get("train", {}), "train", base, faults)
    data = _check_named(DATA_FORMATS, raw.get("data"), "data", base, faults)
    tasks = _check_named(TASK_KINDS, raw.get("tasks"), "tasks", base, faults)
    tables = {}
    for name in SECTIONS:
        tables[name] = raw[name] if isinstance(raw.get(name), dict) else {}
    faults += cross_faults(**tables)
    if faults or encoder is None or train is None:
        return None
    if isinstance(encoder, PretrainedEncoderConfig):
        encoder = encoder.model_copy(update={"model": _local_model(encoder.model, base)})
        if length_of_run is not None:  # a default, which a resumed run may have had otherwise
            encoder.model_fields_set.discard("max_length")
    return Config(encoder=encoder, data=data, tasks=tasks, train=train)


_EXAMPLES: Mapping[str, str] = {"data": "[data.atis]", "tasks": "[tasks.intent]"}


def _check_named(
    union: SectionUnion[Any], tables: object, section: str, base: Path, faults: list[str]
) -> dict[str, Any]:
    """Return the checked sections of `[data]` or `[tasks]` by name. Those with faults are left out."""
    if not isinstance(tables, dict) or not tables:
        faults.append(f"{section} is missing. Add a table such as {_EXAMPLES[section]}.")
        return {}
    checked = {}
    for name, table in tables.items():
        member = check_member(union, table, f"{section}.{name}", base, faults)
        if member is not None:
            checked[name] = member
    return checked


def _with_review(config: Config, review: Path) -> Config:
    """Return the configuration with a review for all data sets, beside those that they name."""
    data_sets = {}
    for name, data in config.data.items():
        data_sets[name] = data.model_copy(update={"review": (*data.review, review.resolve())})
    return config.model_copy(update={"data": data_sets})


def _length_of_run(encoder: object, base: Path) -> int | None:
    """Return the `max_length` of the run that `encoder.model` names. None: there is none, or the file has its own."""
    if not isinstance(encoder, dict) or "max_length" in encoder or not isinstance(encoder.get("model"), str):
        return None
    return stored_max_length(Path(_local_model(encoder["model"], base)))


def _local_model(model: str, base: Path) -> str:
    """Return a local directory as an absolute path, any other name as it is.

    A path is relative to the configuration. One that is not there, and in the working directory is, is taken from there.
    """
    path = base / Path(model).expanduser()
    is_path = model.startswith((".", "~")) or model.count("/") > 1
    if not path.is_dir() and "/" in model and Path(model).is_dir():
        return str(Path(model).resolve())
    return str(path.resolve()) if is_path or path.is_dir() else model

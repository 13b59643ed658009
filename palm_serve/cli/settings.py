"""Resolution of the options of `palm-serve run`: the command line overrides the environment, then the file, then the defaults."""

import difflib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from palm_serve.config import GROUPS, ServeOptions
from palm_serve.errors import ConfigError
from palm_serve.storage.urls import as_url
from palm_serve.system.addresses import UNIX, socket_path
from palm_serve.system.files import read_toml

PREFIX = "PALM_SERVE_"
CONFIG_VARIABLE = f"{PREFIX}CONFIG"
_FIELDS = ServeOptions.model_fields
# Kubernetes sets these in every container of a namespace that has a Service named `palm-serve`.
_SERVICE_LINK = re.compile(PREFIX + r"(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT_\d+_(TCP|UDP)(_.*)?)")
# The colon of a digest, as in bundles/demo@sha256:..., and that of a URL separate nothing.
_BETWEEN_BUNDLES = re.compile(r"(?<!@sha256)" + re.escape(os.pathsep) + r"(?!//)")
_SERVICE_ADDRESS = re.compile(r"(tcp|udp)://")


@dataclass(frozen=True, slots=True)
class ResolvedOptions:
    """Checked options, and the source of each that is not a default."""

    options: ServeOptions
    sources: Mapping[str, str]


def variable(name: str) -> str:
    """Return the environment variable of an option."""
    return PREFIX + name.upper()


def flag(name: str) -> str:
    """Return the flag of an option."""
    return "--" + name.replace("_", "-")


def resolve(overrides: Mapping[str, Any], config: Path | None, environment: Mapping[str, str]) -> ResolvedOptions:
    """Merge and check the options.

    Args:
        overrides: values from the command line by option name, without options that were not used.
        config: a TOML file. None: the file named by `PALM_SERVE_CONFIG`, if any.
        environment: variables that start with `PALM_SERVE_` and are not empty set options.

    Raises:
        ConfigError: with all faults, one a line.
    """
    faults: list[str] = []
    if config is None and environment.get(CONFIG_VARIABLE):
        config = Path(environment[CONFIG_VARIABLE])
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    if config is not None:
        file_values = _read_file(config, faults)
        values |= file_values
        sources |= dict.fromkeys(file_values, str(config))
    environment_values = _read_environment(environment, faults)
    values |= environment_values
    values |= overrides
    for name in environment_values:
        sources[name] = variable(name)
    for name in overrides:
        sources[name] = _command_line_name(name)
    try:
        options = ServeOptions.model_validate(values)
    except ValidationError as error:
        for fault in error.errors():
            faults.append(_message(fault, sources))
    if faults:
        raise ConfigError("\n".join(dict.fromkeys(faults)))
    return ResolvedOptions(options, sources)


def as_toml(resolved: ResolvedOptions) -> str:
    """Format the options, with their sources, as a file that `--config` reads back."""
    lines: list[str] = []
    for group in GROUPS:
        lines.append(f"# {group.__doc__}")
        for name in group.__annotations__:
            value = getattr(resolved.options, name)
            if name == "host" and socket_path(value):
                value = f"{UNIX}{Path(socket_path(value)).absolute()}"
            source = resolved.sources.get(name, "default")
            if value is None:
                lines.append(f"# {name} is not set")
            else:
                lines.append(f"{f'{name} = {_toml(value)}':<40}  # {source}")
        lines.append("")
    return "\n".join(lines)


def takes_paths(name: str) -> bool:
    """Return true if an option names files."""
    return _holds_path(_FIELDS[name].annotation)


def _holds_path(annotation: Any) -> bool:
    return annotation is Path or any(map(_holds_path, get_args(annotation)))


def _read_file(path: Path, faults: list[str]) -> dict[str, Any]:
    """Read the options of a file, add unknown keys to `faults`, and resolve paths relative to the file."""
    table = read_toml(path, ConfigError)
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in _FIELDS:
            faults.append(f"{path}: unknown key '{key}'. {_suggestion(key, _FIELDS)}")
        elif takes_paths(key):
            values[key] = _relative_to(path.parent, value)
        elif key == "host" and isinstance(value, str) and socket_path(value):
            values[key] = f"{UNIX}{path.parent / socket_path(value)}"
        else:
            values[key] = value
    return values


def _relative_to(folder: Path, value: Any) -> Any:
    if isinstance(value, str):
        return value if as_url(value) else folder / value
    if isinstance(value, list):
        return [_relative_to(folder, item) for item in value]
    return value


def _read_environment(environment: Mapping[str, str], faults: list[str]) -> dict[str, Any]:
    """Read the options of the environment, and add unknown variables to `faults`."""
    values: dict[str, Any] = {}
    names = {variable(name): name for name in _FIELDS}
    for key, value in environment.items():
        if not key.startswith(PREFIX) or key == CONFIG_VARIABLE or not value:
            continue
        if _SERVICE_LINK.fullmatch(key) or _SERVICE_ADDRESS.match(value):
            continue
        if key not in names:
            faults.append(f"unknown variable '{key}'. {_suggestion(key, names)}")
        elif names[key] == "bundles":
            values["bundles"] = _BETWEEN_BUNDLES.split(value)
        else:
            values[names[key]] = value
    return values


def _command_line_name(name: str) -> str:
    return "BUNDLE" if name == "bundles" else flag(name)


def _message(fault: ErrorDetails, sources: Mapping[str, str]) -> str:
    rule = fault["msg"].removeprefix("Value error, ").replace("Input should", "must")
    if not fault["loc"]:
        return rule
    name = str(fault["loc"][0])
    source = sources[name]
    if source not in (variable(name), flag(name), "BUNDLE"):
        source = f"{source}: {name}"
    return f"{source} {rule}, got {fault['input']!r}"


def _suggestion(word: str, names: Iterable[str]) -> str:
    matches = difflib.get_close_matches(word, names, n=1)
    return f"Did you mean '{matches[0]}'?" if matches else f"Known are {', '.join(sorted(names))}."


def _toml(value: Any) -> str:
    """Format a value as TOML. JSON writes strings, numbers, booleans and lists in the same way. Paths become absolute."""
    if isinstance(value, Path):
        value = as_url(value) or str(value.absolute())
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False)

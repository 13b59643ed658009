"""Where the options of `palm-serve run` come from: command line before environment before file before default."""

import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from palm_serve.config import GROUPS, ServeOptions
from palm_serve.errors import ConfigError

PREFIX = "PALM_SERVE_"
CONFIG_VARIABLE = f"{PREFIX}CONFIG"
_FIELDS = ServeOptions.model_fields
# What Kubernetes sets in every container of a namespace that has a Service named `palm-serve`.
_SERVICE_LINK = re.compile(PREFIX + r"(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT_\d+_(TCP|UDP)(_.*)?)")
_SERVICE_ADDRESS = re.compile(r"(tcp|udp)://")


@dataclass(frozen=True, slots=True)
class Settings:
    """The options that apply, and for each that is not a default where it is from."""

    options: ServeOptions
    sources: Mapping[str, str]


def variable(name: str) -> str:
    """The environment variable of an option."""
    return PREFIX + name.upper()


def flag(name: str) -> str:
    """The flag of an option."""
    return "--" + name.replace("_", "-")


def resolve(given: Mapping[str, Any], config: Path | None, environment: Mapping[str, str]) -> Settings:
    """Completes and checks the options.

    Args:
        given: values of the command line by option name, only those that were given.
        config: a TOML file; None: the one that `PALM_SERVE_CONFIG` names, if any.
        environment: names that start with `PALM_SERVE_` are read, the empty ones are not.

    Raises:
        ConfigError: with all faults, a line each.
    """
    faults: list[str] = []
    if config is None and environment.get(CONFIG_VARIABLE):
        config = Path(environment[CONFIG_VARIABLE])
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    if config is not None:
        in_file = _read_file(config, faults)
        values |= in_file
        sources |= dict.fromkeys(in_file, str(config))
    in_environment = _read_environment(environment, faults)
    values |= in_environment
    values |= given
    sources |= {name: variable(name) for name in in_environment}
    sources |= {name: _on_command_line(name) for name in given}
    try:
        options = ServeOptions.model_validate(values)
    except ValidationError as error:
        faults += [_message(fault, sources) for fault in error.errors()]
    if faults:
        raise ConfigError("\n".join(dict.fromkeys(faults)))
    return Settings(options, sources)


def as_toml(settings: Settings) -> str:
    """The options that apply as a file that `--config` reads back to the same, with where each is from."""
    lines = []
    for group in GROUPS:
        lines.append(f"# {group.__doc__}")
        for name in group.__annotations__:
            value = getattr(settings.options, name)
            source = settings.sources.get(name, "default")
            if value is None:
                lines.append(f"# {name} is not set")
            else:
                lines.append(f"{f'{name} = {_toml(value)}':<40}  # {source}")
        lines.append("")
    return "\n".join(lines)


def takes_paths(name: str) -> bool:
    """Whether an option names files."""
    return _holds_path(_FIELDS[name].annotation)


def _holds_path(annotation: Any) -> bool:
    return annotation is Path or any(map(_holds_path, get_args(annotation)))


def _read_file(path: Path, faults: list[str]) -> dict[str, Any]:
    """The keys of the file that are options, paths relative to it made whole."""
    try:
        table = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}; strings need quotes, true and false are lower case") from None
    faults += [f"{path}: unknown key '{key}'{_nearest(key, _FIELDS)}" for key in table if key not in _FIELDS]
    known = {key: value for key, value in table.items() if key in _FIELDS}
    return {key: _from(path.parent, value) if takes_paths(key) else value for key, value in known.items()}


def _from(folder: Path, value: Any) -> Any:
    if isinstance(value, str):
        return folder / value
    return [_from(folder, item) for item in value] if isinstance(value, list) else value


def _read_environment(environment: Mapping[str, str], faults: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    names = {variable(name): name for name in _FIELDS}
    for key, value in environment.items():
        ours = key.startswith(PREFIX) and key != CONFIG_VARIABLE
        if not ours or not value or _SERVICE_LINK.fullmatch(key) or _SERVICE_ADDRESS.match(value):
            continue
        if key not in names:
            faults.append(f"{key}: unknown variable{_nearest(key, names)}")
        else:
            values[names[key]] = value.split(os.pathsep) if names[key] == "bundles" else value
    return values


def _on_command_line(name: str) -> str:
    return "BUNDLE" if name == "bundles" else flag(name)


def _message(fault: ErrorDetails, sources: Mapping[str, str]) -> str:
    said = fault["msg"].removeprefix("Value error, ").replace("Input should", "must")
    if not fault["loc"]:
        return said
    name = str(fault["loc"][0])
    source = sources[name]
    where = f"{source}: {name}" if source not in (variable(name), flag(name), "BUNDLE") else source
    return f"{where}: {said}, not {fault['input']!r}"


def _nearest(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(sorted(known))}"


def _toml(value: Any) -> str:
    """JSON writes strings, numbers, truth and lists as TOML does; a path is a string, whole, so that the file may lie anywhere."""
    if isinstance(value, Path):
        value = str(value.absolute())
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False)

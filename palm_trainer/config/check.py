"""Check raw tables against their sections: all faults are collected, a line each."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from palm_trainer.config.mappings import absent, select_keys
from palm_trainer.config.rules import nearest, nearest_path
from palm_trainer.config.section import ConfigSection, SectionT, SectionUnion, Table, inner_section, key_paths
from palm_trainer.errors import ConfigError

_Model = TypeVar("_Model", bound=ConfigSection)


def check_section(model: type[_Model], values: Mapping[str, Any], location: str) -> _Model:
    """Return a section from values in Python, under the rules of a file.

    Args:
        model: the section.
        values: its keys and values.
        location: what each message begins with.

    Raises:
        ConfigError: with all faults, a line each.
    """
    faults: list[str] = []
    checked = check_table(model, dict(values), location, Path(), faults)
    if checked is None or faults:
        raise ConfigError("\n".join(faults))
    return checked


def check_table(model: type[_Model], table: object, location: str, base: Path, faults: list[str]) -> _Model | None:
    """Return the checked section, None where it has faults.

    Args:
        model: the section.
        table: what the file has in its place.
        location: dotted path of the section.
        base: directory that data paths are relative to.
        faults: list that the faults are added to.
    """
    if not isinstance(table, dict):
        faults.append(_no_table(location, table))
        return None
    section, messages = _validate(model, table, location, base)
    faults += messages
    faults += _faults_between_keys(model, table, location)
    return section


def check_member(
    union: SectionUnion[SectionT], table: object, location: str, base: Path, faults: list[str]
) -> SectionT | None:
    """Return the checked section of a union, None where it has faults.

    Args:
        union: the sections that may stand here.
        table: what the file has in their place.
        location: dotted path of the section.
        base: directory that data paths are relative to.
        faults: list that the faults are added to.
    """
    if not isinstance(table, dict):
        faults.append(_no_table(location, table))
        return None
    model = union.choose(table)
    if model is None:
        faults += _faults_without_member(union, table, location, base)
        return None
    all_keys = union.all_keys()
    fitting = {}
    for key, value in table.items():
        if key in all_keys and key not in model.model_fields:
            faults.append(_foreign_key(union, table, key, location))
        else:
            fitting[key] = value
    return check_table(model, fitting, location, base, faults)


def _no_table(location: str, value: object) -> str:
    return f"{location} must be a table, got {value!r}. Write [{location}] and its keys below."


def _faults_without_member(
    union: SectionUnion[SectionT], table: dict[str, Any], location: str, base: Path
) -> Iterator[str]:
    """Yield the fault of an unknown tag, and those of the keys that all members have in common."""
    tag, value = union.tag, union.tag_value(table)
    tags = ", ".join(union.members)
    if value is None:
        yield f"{location}.{tag} is missing. Add `{tag} = ...` to [{location}]: one of {tags}."
    else:
        suggestion = nearest(value, union.members) if isinstance(value, str) else ""
        yield f"{location}.{tag} must be one of {tags}, got {value!r}.{suggestion}"
    member_keys = union.all_keys().keys() - union.base.model_fields.keys()
    common = select_keys(table, absent(table, member_keys))
    _, messages = _validate(union.base, common | {tag: str(value)}, location, base)
    yield from messages


def _foreign_key(union: SectionUnion[SectionT], table: Table, key: str, location: str) -> str:
    """Return the message for a key that belongs to other members of the union."""
    owners = " or ".join(map(repr, union.tags_with(key)))
    return f"{location}.{key} is only for {union.tag} {owners}, got '{union.tag_value(table)}'. Remove it."


def _validate(
    model: type[_Model], table: Mapping[str, Any], location: str, base: Path
) -> tuple[_Model | None, list[str]]:
    """Return the section, or the messages of its field faults."""
    try:
        return model.model_validate(table, context={"base": base}), []
    except ValidationError as error:
        return None, [_message(location, model, fault) for fault in error.errors()]


def _faults_between_keys(model: type[ConfigSection], table: Table, location: str) -> Iterator[str]:
    """Yield the faults between the keys of a section, and of the sections within it."""
    for key, text in model.faults_between_keys(table):
        yield f"{location}.{key} {text}"
    for key, value in table.items():
        inner = inner_section(model, key)
        if inner is not None and isinstance(value, Mapping):
            yield from _faults_between_keys(inner, value, f"{location}.{key}")


def _message(location: str, model: type[ConfigSection], fault: ErrorDetails) -> str:
    path = ".".join([location, *map(str, fault["loc"])])
    key = str(fault["loc"][0]) if fault["loc"] else ""
    if fault["type"] == "model_type":
        return _no_table(path, fault["input"])
    inner = inner_section(model, key) if len(fault["loc"]) > 1 else None
    if inner is not None:
        return _message(f"{location}.{key}", inner, fault | {"loc": fault["loc"][1:]})
    if fault["type"] == "missing":
        flag = " or give --output" if path == "train.output" else ""
        return f"{path} is missing. Add `{key} = ...` to [{location}]{flag}."
    if fault["type"] == "extra_forbidden":
        return f"{path} is not a key of [{location}].{nearest_path(key, key_paths(model))}"
    if fault["type"] == "too_short":
        return f"{path} must have at least one item, got an empty list."
    rule = fault["msg"].removeprefix("Value error, ").replace("Input should", "must").replace("String should", "must")
    return f"{path} {rule}, got {fault['input']!r}."

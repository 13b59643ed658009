"""Small operations on names and mappings that all parts of the trainer share."""

from collections.abc import Container, Iterable, Mapping
from typing import TypeVar

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


def absent(names: Iterable[_Key], container: Container[_Key]) -> list[_Key]:
    """Return the names that a container lacks, in order."""
    missing = []
    for name in names:
        if name not in container:
            missing.append(name)
    return missing


def select_keys(mapping: Mapping[_Key, _Value], keys: Iterable[_Key]) -> dict[_Key, _Value]:
    """Return the items of some keys, in the order of the keys. Keys that the mapping lacks are left out."""
    selected = {}
    for key in keys:
        if key in mapping:
            selected[key] = mapping[key]
    return selected


def first_repeated(names: Iterable[_Key]) -> _Key | None:
    """Return the first name, in order, that occurs again later. None: each occurs once."""
    counts: dict[_Key, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    for name, count in counts.items():
        if count > 1:
            return name
    return None

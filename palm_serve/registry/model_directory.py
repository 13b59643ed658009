"""What a directory of bundles holds. Reads names, sizes and times, and no bundle.

    DIR/NAME/manifest.json          the bundle itself: the stable version of NAME
    DIR/NAME/LABEL/manifest.json    versions side by side, each under its label: stable, canary, shadow, 2026-11-22, ...
    DIR/NAME/traffic.toml           canary = 0.1 and shadow = 0.05, shares of the requests that name no version

NAME and LABEL may be symbolic links. Names that begin with a dot are not read, so a bundle can be written under one and renamed.
"""

import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palm_serve.bundle.loader import MANIFEST
from palm_serve.errors import BundleError
from palm_serve.registry.versions import CANARY, SHADOW, STABLE, TrafficShares

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""Of a model or a label."""
TRAFFIC = "traffic.toml"

Signature = tuple[tuple[str, int, int, int], ...]
"""Path, inode, size and time of change of every file: what differs when files do."""

_DIGITS = re.compile(r"(\d+)")


@dataclass(frozen=True, slots=True)
class BundleEntry:
    """One bundle of the directory, or what is to become one."""

    path: Path
    """Without symbolic links, so that a link that moves does not mix two bundles."""
    signature: Signature
    complete: bool
    """Whether it has a manifest."""


@dataclass(frozen=True, slots=True)
class ModelListing:
    """What one name holds."""

    entries: Mapping[str, BundleEntry]
    """By label."""
    traffic: tuple[Path, Signature] | None = None
    """The file with the shares, if there is one."""
    present: bool = True
    """Whether the directory has the name."""


ABSENT = ModelListing({}, present=False)


def read_folder(folder: Path) -> dict[str, ModelListing]:
    """What the directory holds, by name. Raises OSError where it cannot be read."""
    return {name: read_name(path) for name, path in sorted(_directories(folder))}


def read_name(path: Path) -> ModelListing:
    """What one name of the directory holds. Raises OSError where it cannot be read."""
    if (path / MANIFEST).is_file():
        return ModelListing({STABLE: read_entry(path)})
    file = path / TRAFFIC
    entries = {label: read_entry(child) for label, child in sorted(_directories(path))}
    return ModelListing(entries, (file, _signature([file], path)) if file.is_file() else None)


def read_entry(path: Path) -> BundleEntry:
    """One bundle. Raises OSError where files vanish meanwhile."""
    real = path.resolve()
    files = sorted(Path(folder) / name for folder, _, names in os.walk(real) for name in names)
    signature = ((str(real), 0, 0, 0), *_signature(files, real))
    return BundleEntry(real, signature, (real / MANIFEST).is_file())


def stable_label(labels: Iterable[str]) -> str | None:
    """The label whose version is the stable one: "stable", else the highest (`v10` is above `v9`) that is neither canary nor shadow."""
    found = [label for label in labels if label not in (CANARY, SHADOW)]
    return STABLE if STABLE in found else max(found, key=_natural, default=None)


def read_traffic(file: Path) -> TrafficShares:
    """Raises BundleError for what is not a file of shares."""
    try:
        table: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"{file} cannot be read: {error}; write lines like `canary = 0.1`") from None
    known = (CANARY, SHADOW)
    for key, value in table.items():
        if key not in known:
            raise BundleError(f"{file}: unknown key '{key}'; shares are for {' and '.join(known)}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise BundleError(f"{file}: {key} is {value!r}; a share is a number from 0 to 1")
    return TrafficShares(**{key: float(value) for key, value in table.items()})


def _directories(folder: Path) -> Iterator[tuple[str, Path]]:
    for child in folder.iterdir():
        if NAME.fullmatch(child.name) and child.is_dir():
            yield child.name, child


def _signature(files: Iterable[Path], root: Path) -> Signature:
    found = []
    for file in files:
        seen = file.stat()
        found.append((str(file.relative_to(root)), seen.st_ino, seen.st_size, seen.st_mtime_ns))
    return tuple(found)


def _natural(label: str) -> tuple[list[tuple[int, str]], str]:
    """Sorts numbers in names as numbers."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in _DIGITS.split(label)], label

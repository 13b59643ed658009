"""Model directory: lists a directory of bundles by names, sizes and times, without reading the bundles.

    DIR/NAME/manifest.json          the bundle itself: the stable version of NAME
    DIR/NAME/LABEL/manifest.json    versions side by side, each under its label: stable, canary, shadow, 2026-11-22, ...
    DIR/NAME/traffic.toml           canary = 0.1 and shadow = 0.05, shares of the requests that name no version

NAME and LABEL may be symbolic links. Names that begin with a dot are ignored, so a bundle can be written under such a name
and renamed.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from palm_serve.bundle.loader import MANIFEST
from palm_serve.errors import BundleError
from palm_serve.files import read_toml
from palm_serve.registry.versions import CANARY, SHADOW, STABLE, TrafficShares

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""Pattern of a name or a label."""
TRAFFIC = "traffic.toml"

Signature = tuple[tuple[str, int, int, int], ...]
"""Path, inode, size and modification time of every file. Differs when the files do."""

_DIGITS = re.compile(r"(\d+)")


@dataclass(frozen=True, slots=True)
class BundleEntry:
    """One bundle of the directory, complete or still being written."""

    path: Path
    """Symbolic links are resolved, so that a link that moves does not mix two bundles."""
    signature: Signature
    complete: bool
    """True if there is a manifest."""


@dataclass(frozen=True, slots=True)
class ModelListing:
    """The bundles of one name."""

    entries: Mapping[str, BundleEntry]
    """Bundles by label."""
    traffic: tuple[Path, Signature] | None = None
    """The file of traffic shares, if there is one."""
    present: bool = True
    """True if the directory has the name."""


ABSENT = ModelListing({}, present=False)


def list_models(directory: Path) -> dict[str, ModelListing]:
    """List the directory, by name.

    Raises:
        OSError: the directory cannot be read.
    """
    return {name: list_model(path) for name, path in sorted(_subdirectories(directory))}


def list_model(path: Path) -> ModelListing:
    """List one name of the directory.

    Raises:
        OSError: the directory cannot be read.
    """
    if (path / MANIFEST).is_file():
        return ModelListing({STABLE: read_entry(path)})
    file = path / TRAFFIC
    entries = {}
    for label, bundle in sorted(_subdirectories(path)):
        entries[label] = read_entry(bundle)
    return ModelListing(entries, (file, _signature([file], path)) if file.is_file() else None)


def read_entry(path: Path) -> BundleEntry:
    """Read the signature of one bundle.

    Raises:
        OSError: a file vanished in the meantime.
    """
    bundle = path.resolve()
    files = []
    for directory, _, names in os.walk(bundle):
        for name in names:
            files.append(Path(directory) / name)
    signature = ((str(bundle), 0, 0, 0), *_signature(sorted(files), bundle))
    return BundleEntry(bundle, signature, (bundle / MANIFEST).is_file())


def stable_label(labels: Iterable[str]) -> str | None:
    """Return the label of the stable version, or None.

    It is "stable", or else the highest label (`v10` is above `v9`) that is neither canary nor shadow.
    """
    candidates = [label for label in labels if label not in (CANARY, SHADOW)]
    return STABLE if STABLE in candidates else max(candidates, key=_natural_order, default=None)


def read_traffic(file: Path) -> TrafficShares:
    """Read a file of traffic shares.

    Raises:
        BundleError: the file cannot be read, or holds something else.
    """
    table = read_toml(file, BundleError)
    keys = (CANARY, SHADOW)
    for key, value in table.items():
        if key not in keys:
            raise BundleError(f"{file}: unknown key '{key}'; shares are for {' and '.join(keys)}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise BundleError(f"{file}: {key} must be a number from 0 to 1, got {value!r}")
    shares = {}
    for key, value in table.items():
        shares[key] = float(value)
    return TrafficShares(**shares)


def _subdirectories(directory: Path) -> Iterator[tuple[str, Path]]:
    """Yield the names and paths of subdirectories with a valid name."""
    for path in directory.iterdir():
        if NAME.fullmatch(path.name) and path.is_dir():
            yield path.name, path


def _signature(files: Iterable[Path], root: Path) -> Signature:
    signature = []
    for file in files:
        status = file.stat()
        signature.append((str(file.relative_to(root)), status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(signature)


def _natural_order(label: str) -> tuple[list[tuple[int, str]], str]:
    """Return a sort key that compares numbers within labels as numbers."""
    pieces = []
    for piece in _DIGITS.split(label):
        pieces.append((int(piece), "") if piece.isdecimal() else (-1, piece))
    return pieces, label

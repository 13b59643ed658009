"""Model directory: lists a directory of bundles by names, sizes and times, without reading the bundles.

    DIR/NAME/manifest.json          the bundle itself: the stable version of NAME
    DIR/NAME/LABEL/manifest.json    versions side by side, each under its label: stable, canary, shadow, 2026-11-22, ...
    DIR/NAME/traffic.toml           canary = 0.1 and shadow = 0.05, shares of the requests that name no version

NAME and LABEL may be symbolic links. Names that begin with a dot are ignored, so a bundle can be written under such a name
and renamed. Something that is there and cannot be read or followed is listed with its fault: it is not gone.
"""

import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from palm_serve.bundle.loader import MANIFEST
from palm_serve.config.names import NAME_RULE, is_model_name, normalized_name
from palm_serve.errors import BundleError
from palm_serve.registry.versions import CANARY, SHADOW, STABLE, TrafficShares
from palm_serve.system.files import read_toml
from palm_serve.system.plain_text import plain

TRAFFIC = "traffic.toml"
_LOST_AND_FOUND = "lost+found"
"""Directory of file systems for files without a name."""

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
    fault: str = ""
    """Reason why the bundle is there and cannot be read."""


@dataclass(frozen=True, slots=True)
class ModelListing:
    """The bundles of one name."""

    entries: Mapping[str, BundleEntry]
    """Bundles by label."""
    traffic: tuple[Path, Signature] | None = None
    """The file of traffic shares, if there is one."""
    present: bool = True
    """True if the directory has the name."""
    is_file: bool = False
    """True for a file, which says nothing unless a model of its name is in service."""
    is_empty: bool = False
    """True for an empty directory. It is a fault only if a model of its name is in service."""
    fault: str = ""
    """Reason why the name is there and cannot be read."""
    misnamed: Mapping[str, str] = field(default_factory=dict)
    """Bundles that cannot be served under the label of their directory, with the reason."""


ABSENT = ModelListing({}, present=False)


@dataclass(frozen=True, slots=True)
class DirectoryListing:
    """All names of a directory."""

    models: Mapping[str, ModelListing]
    misnamed: Mapping[str, str]
    """Bundles that cannot be served under the name of their directory, with the reason."""

    @property
    def is_empty(self) -> bool:
        """True if there is no directory and no link, as where a volume is not mounted."""
        return not self.misnamed and all(listing.is_file for listing in self.models.values())


def list_models(directory: Path) -> DirectoryListing:
    """List the directory.

    Raises:
        OSError: the directory cannot be read.
    """
    paths, misnamed = _named_paths(directory, with_files=True)
    models = {}
    for name, path in paths.items():
        models[name] = list_model(path)
    return DirectoryListing(models, misnamed)


def find_model(directory: Path, name: str) -> ModelListing:
    """List one name of the directory.

    Raises:
        OSError: the directory cannot be read.
    """
    path = _named_paths(directory, with_files=True)[0].get(normalized_name(name))
    return ABSENT if path is None else list_model(path)


def list_model(path: Path) -> ModelListing:
    """List one name, given the path of its directory."""
    try:
        if not stat.S_ISDIR(path.stat().st_mode):
            return ModelListing({}, is_file=True, fault=f"{path} must be a directory, got a file")
        if os.path.lexists(path / MANIFEST):
            return ModelListing({STABLE: read_entry(path)})
        paths, misnamed = _named_paths(path, with_files=False)
        is_empty = all(file.name.startswith(".") for file in path.iterdir())
    except OSError as error:
        return ModelListing({}, fault=_describe(path, error))
    entries = {}
    for label, bundle in paths.items():
        entries[label] = read_entry(bundle)
    fault = f"{path} must hold a bundle, and is empty" if is_empty else ""
    return ModelListing(entries, _traffic_file(path), is_empty=is_empty, fault=fault, misnamed=misnamed)


def read_entry(path: Path) -> BundleEntry:
    """Read the signature of one bundle."""
    try:
        path.stat()
        # Only now, because `resolve` takes the target of a broken link for a path that does not exist yet.
        bundle = path.resolve(strict=True)
        files = []
        for directory, _, names in os.walk(bundle, onerror=_raise):
            for name in names:
                files.append(Path(directory) / name)
        signature = ((str(bundle), 0, 0, 0), *_signature(sorted(files), bundle))
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links that appeared a moment ago
        return BundleEntry(path, (), False, _describe(path, error))
    manifest = bundle / MANIFEST
    if manifest.exists() and not manifest.is_file():
        return BundleEntry(
            path, (), False, f"{manifest} must be a regular file, got another kind. Copy the bundle again"
        )
    return BundleEntry(bundle, signature, manifest.is_file())


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


def _named_paths(directory: Path, with_files: bool) -> tuple[dict[str, Path], dict[str, str]]:
    """Return the directories, and links to anything, by name, and the bundles whose names cannot be served."""
    paths: dict[str, Path] = {}
    misnamed = {}
    # Of two names that differ in their form only, the normalized one is served.
    for path in sorted(directory.iterdir(), key=lambda path: (path.name != normalized_name(path.name), path.name)):
        if path.name.startswith(".") or path.name == _LOST_AND_FOUND:
            continue
        name = normalized_name(path.name)
        if is_model_name(name) and name not in paths:
            if with_files or os.path.islink(path) or not os.path.isfile(path):
                paths[name] = path
        elif _holds_bundle(path):
            reason = f"must be named with {NAME_RULE}"
            if name in paths:
                reason = "must have a name of its own, and differs from another one in the form of its accents only"
            # Not the normalized name, which may be that of another one.
            # `plain`: a name may hold bytes that are no UTF-8, which neither gRPC nor Prometheus can carry.
            misnamed[plain(path.name)] = f"{plain(path)} {reason}. Rename it."
    return paths, misnamed


def _holds_bundle(path: Path) -> bool:
    """Return True for a bundle, or for a directory of bundles."""
    try:
        return (path / MANIFEST).is_file() or any(path.glob(f"*/{MANIFEST}"))
    except OSError:
        return False


def _traffic_file(path: Path) -> tuple[Path, Signature] | None:
    """Return the file of traffic shares and its signature. One that cannot be read has an empty signature."""
    file = path / TRAFFIC
    if not os.path.lexists(file):
        return None
    try:
        return file, _signature([file], path)
    except OSError as error:
        return file, ((_describe(file, error), 0, 0, 0),)


def _describe(path: Path, error: Exception) -> str:
    """Describe why something that is there cannot be read."""
    reason = error.strerror if isinstance(error, OSError) else str(error)
    if os.path.islink(path):
        return f"{path} is a link to {os.path.realpath(path)}, which cannot be read: {reason}"
    return f"{path} cannot be read: {reason}"


def _raise(error: OSError) -> None:
    raise error


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

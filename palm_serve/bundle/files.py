"""Files of a bundle directory: which there are, and how they are read, with a limit on the size of each."""

import hashlib
import os
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader, FileIO
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from palm_serve.errors import BundleError

MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"
"""Ed25519 signature of the bytes of the manifest. No manifest can list it."""

_UNLISTED = (MANIFEST, SIGNATURE)
_VOLUME_FOLDER = "lost+found"
"""Folder at the top of every ext4 volume. Only its owner can read it."""

MIB = 1 << 20
_SLICE_BYTES = MIB
"""Size of the slices in which `copy_file` copies. One takes a millisecond."""


def check_names(path: Path | str, names: Collection[str]) -> None:
    """Check that the names of a manifest stay inside the bundle and are written in one way only.

    Args:
        path: directory of the bundle, for messages.
        names: keys of the manifest's `files`.

    Raises:
        BundleError: a name leads out of the bundle, or is not in normal form.
    """
    for name in names:
        steps = PurePosixPath(name).parts
        if name.startswith("/") or ".." in steps or "\\" in name or "\0" in name:
            raise _outside(path, name)
        if not steps or "/".join(steps) != name or name in _UNLISTED:
            raise BundleError(f"{path}/{MANIFEST} lists the file '{name}', which is no plain name; export again")


def check_complete(path: Path, names: Collection[str]) -> None:
    """Check that the directory holds no file that the manifest does not list.

    Names that begin with a dot are passed over: programs leave such files behind (`.DS_Store`, `..data` of a Kubernetes
    volume), and nothing reads them.

    Args:
        path: directory of the bundle.
        names: keys of the manifest's `files`.

    Raises:
        BundleError: there is a further file, or a folder that holds none of the listed ones.
    """
    listed = set(names)
    folders: set[str] = set()
    for name in names:
        folders.update(map(str, PurePosixPath(name).parents))
    for name in _walk(path, "", folders):
        if name not in listed:
            raise BundleError(
                f"{path} holds '{name}', which its manifest does not list, so nothing vouches for it. "
                "Remove it, or export again."
            )


def _walk(path: Path, prefix: str, folders: Collection[str]) -> Iterator[str]:
    """Yield the names below a folder. Folders that hold no listed file are yielded unless they are empty."""
    try:
        with os.scandir(path / prefix) as folder:
            entries = sorted(folder, key=lambda entry: entry.name)
        for entry in entries:
            name = f"{prefix}{entry.name}"
            if entry.name.startswith(".") or name in _UNLISTED or name == _VOLUME_FOLDER:
                continue
            if not entry.is_dir():
                yield name
            elif name in folders:
                yield from _walk(path, f"{name}/", folders)
            elif entry.is_symlink() or os.listdir(entry.path):
                yield f"{name}/"
    except OSError as error:
        raise BundleError(f"{path}/{prefix} cannot be listed: {error.strerror}") from None


def read_file(path: Path, name: str, limit: int) -> bytes:
    """Read one file of a bundle.

    Args:
        path: directory of the bundle.
        name: path of the file inside the bundle.
        limit: largest size in bytes.

    Raises:
        BundleError: the file is missing, too large, no regular file, or outside the bundle.
    """
    with open_file(path, name) as stream:
        return stream.read(_checked_size(path, name, stream, limit))


def _checked_size(path: Path, name: str, stream: BufferedReader, limit: int) -> int:
    """Return the size of an open file. Raise BundleError if it exceeds the limit."""
    size = os.fstat(stream.fileno()).st_size
    if size > limit:
        sizes = (
            f"{limit // MIB:,} MiB, got {size / MIB:,.1f} MiB" if limit >= MIB else f"{limit} bytes, got {size:,} bytes"
        )
        raise BundleError(f"{path}/{name} must have at most {sizes}. Export again.")
    return size


def copy_file(
    path: Path, name: str, limit: int, target: BinaryIO | FileIO, pause: Callable[[], object] | None = None
) -> str:
    """Copy one file of a bundle in slices, and return the SHA-256 of the bytes that were copied.

    Args:
        path: directory of the bundle.
        name: path of the file inside the bundle.
        limit: largest size in bytes.
        target: where the bytes go.
        pause: called after each slice. None: there is no pause.

    Raises:
        BundleError: as for `read_file`, or the target cannot be written.
    """
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_SLICE_BYTES))
    with open_file(path, name) as stream:
        remaining = _checked_size(path, name, stream, limit)
        while remaining:
            count = stream.readinto(buffer[: min(remaining, _SLICE_BYTES)])
            if not count:
                break  # it was cut meanwhile, which the digest tells
            digest.update(buffer[:count])
            unwritten = buffer[:count]
            while unwritten:
                unwritten = unwritten[target.write(unwritten) :]
            remaining -= count
            if pause is not None:
                pause()
    return digest.hexdigest()


def hash_file(path: Path, name: str) -> str:
    """Return the SHA-256 of one file of a bundle in hexadecimal digits, without holding the file in memory.

    Raises:
        BundleError: the file is missing, no regular file, or outside the bundle.
    """
    with open_file(path, name) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def open_file(path: Path, name: str) -> Iterator[BufferedReader]:
    """Open one file of a bundle. Turn errors of the operating system into BundleErrors."""
    root = os.path.realpath(path)
    file = os.path.realpath(path / name)
    if os.path.commonpath((root, file)) != root:
        raise _outside(path, name)
    try:
        # O_NONBLOCK, because opening a pipe would wait for its other end.
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        with open(descriptor, "rb") as stream:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise BundleError(f"{path}/{name} must be a regular file, got another kind. Copy the bundle again.")
            yield stream
    except FileNotFoundError:
        raise BundleError(f"{path} lacks the file '{name}', which its manifest lists; copy the bundle again") from None
    except OSError as error:
        raise BundleError(f"{path}/{name} cannot be read: {error.strerror}") from None


def check_digest(path: Path, name: str, digest: str, files: Mapping[str, str]) -> None:
    """Compare the digest of one file with that of the manifest.

    Args:
        path: directory of the bundle, for messages.
        name: path of the file inside the bundle.
        digest: SHA-256 of the bytes that were read.
        files: the manifest's `files`.

    Raises:
        BundleError: the digests differ.
    """
    if digest != files[name]:
        raise BundleError(
            f"{path}/{name} was changed or damaged: sha256 is {digest[:12]}..., the manifest says {files[name][:12]}...; "
            "copy the bundle again"
        )


def _outside(path: Path | str, name: str) -> BundleError:
    return BundleError(
        f"{path}/{MANIFEST} lists the file '{name}', which lies outside the bundle; do not trust this bundle"
    )

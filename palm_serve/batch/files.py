"""Files of a batch, on this machine or below URLs. All other modules of the batch reach files through this one.

A URL is a `Path` with one slash where the URL has two, see `storage.urls`. The outputs of a URL appear as a whole: one request
writes each.
"""

import contextlib
import fcntl
import hashlib
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from palm_serve.engine.timing import default_cache
from palm_serve.errors import BatchError, StorageLacks
from palm_serve.storage.remote_folder import RemoteFolder
from palm_serve.storage.urls import as_url

_UNFINISHED = ".new"
_LOCK_FILE = ".lock"


def shown(path: Path) -> str:
    """Return a path or URL for messages."""
    return as_url(path) or str(path)


def is_url(path: Path) -> bool:
    """Return True for a path that stands for a URL."""
    return as_url(path) is not None


def absolute(path: Path) -> Path:
    """Return the path from the root. URLs stay as they are."""
    return path if is_url(path) else path.absolute()


def open_file(path: Path) -> IO[bytes]:
    """Open a file to read.

    Raises:
        StorageError: it cannot be read from its URL.
        OSError: it cannot be read.
    """
    return _remote(path.parent).open(path.name) if is_url(path) else path.open("rb")


def size_and_stamp(path: Path) -> tuple[int, int]:
    """Return the size of a file in bytes, and a number that differs when it was changed.

    Raises:
        BatchError: the object of a URL is not there.
        StorageError: the URL cannot be read.
        OSError: the file cannot be read.
    """
    if not is_url(path):
        status = path.stat()
        return status.st_size, status.st_mtime_ns
    file = _remote(path.parent).find(path.name)
    if file is None:
        raise BatchError(f"{shown(path)} does not exist. Give a file or a folder.")
    return file.size, int.from_bytes(hashlib.sha256(file.stamp.encode()).digest()[:8])


def remote_files(place: Path) -> list[Path]:
    """Return the object of a URL, or those below it.

    Raises:
        BatchError: there is none.
        StorageError: the URL cannot be listed.
    """
    if is_url(place.parent) and _remote(place.parent).find(place.name) is not None:
        return [place]
    try:
        return [place / name for name in _remote(place).files()]
    except StorageLacks as error:
        raise BatchError(f"{error} Give a file or a folder.") from None


def written_files(folder: Path) -> list[Path]:
    """Return the files of an output, in the order of their names.

    Raises:
        StorageError: the URL cannot be listed.
        OSError: the folder cannot be read.
    """
    if not is_url(folder):
        return [path for path in sorted(folder.rglob("*")) if path.is_file()]
    try:
        return [folder / name for name in sorted(_remote(folder).files())]
    except StorageLacks:  # nothing was written yet
        return []


def remove_unfinished(folder: Path) -> None:
    """Remove what killed workers have left unfinished. An object store has no such files."""
    if not is_url(folder):
        for path in folder.rglob(f".*{_UNFINISHED}"):
            path.unlink()


def exists(path: Path) -> bool:
    """Return True if there is a file.

    Raises:
        StorageError: its URL cannot be read.
    """
    return path.is_file() if not is_url(path) else _remote(path.parent).find(path.name) is not None


def write_whole(path: Path, pieces: Iterable[Any]) -> None:
    """Write a file that is there as a whole or not at all, and stays when the machine fails.

    Args:
        path: the file.
        pieces: its content, as bytes or buffers. That of a URL is held in memory.

    Raises:
        StorageError: the URL cannot be written.
        OSError: the file cannot be written.
    """
    if is_url(path):
        _remote(path.parent).write(path.name, b"".join(pieces))
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}{_UNFINISHED}")
    try:
        with unfinished.open("wb") as stream:
            stream.writelines(pieces)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some file systems cannot synchronize folders
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file, if it is there."""
    if is_url(path):
        _remote(path.parent).remove(path.name)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Create the folder and keep other runs out of it, also on other machines that share it. The lock ends with this process.

    Object stores have no locks: for a URL, other runs of this machine are kept out.

    Raises:
        BatchError: it is no folder, or another run writes to it.
        OSError: it cannot be created.
    """
    place = folder
    if is_url(folder):
        cache = default_cache()
        if cache is None:
            raise BatchError(f"{shown(folder)} needs a cache directory, and the user has no home. Set XDG_CACHE_HOME.")
        place = cache / "locks" / hashlib.sha256(shown(folder).encode()).hexdigest()
    elif folder.exists() and not folder.is_dir():
        raise BatchError(f"the output {folder} must be a folder, got a file. Choose another name.")
    place.mkdir(parents=True, exist_ok=True)
    descriptors = [os.open(place, os.O_RDONLY)]
    try:
        try:
            _lock(descriptors[0], folder)
        except OSError:
            # NFS locks no folders, and files only where they are open for writing.
            descriptors.append(os.open(place / _LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666))
            _lock(descriptors[1], folder)
        yield
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BatchError(
            f"the output {shown(folder)} must be written by one run, got a second. Wait for the other, or choose another folder."
        ) from None


def _remote(folder: Path) -> RemoteFolder:
    url = as_url(folder)
    assert url is not None
    return RemoteFolder(url)

"""Files below one URL. The only module that imports fsspec."""

import errno
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from palm_serve.errors import StorageError, StorageLacks, StorageUnreachable, one_line
from palm_serve.storage.patience import Heartbeat, StalledError, call_patiently
from palm_serve.storage.urls import EXTRAS
from palm_serve.system.installation import how_to_install

R = TypeVar("R")

STALL_S = 60.0
"""Seconds without a byte, after which a connection counts as dead."""
REQUEST_S = 600.0
"""Seconds for a call that gives no sign of life until it ends."""
_CONNECT_S = 10.0
_RANGE_BYTES = 1 << 23
_LARGEST_FILE = 1 << 50
_STAMPS = ("etag", "ETag", "generation", "blob_id", "mtime", "LastModified", "last_modified", "created")
"""What file systems call the fact that differs when a file does, the most exact first."""
_LOCAL_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_LIBRARIES = (
    *("botocore", "aiobotocore", "aiohttp", "s3fs", "gcsfs", "google", "adlfs", "azure", "fsspec"),
    *("huggingface_hub", "httpx", "httpx2", "httpcore", "requests", "urllib3", "asyncio"),
)
"""Packages whose errors are those of a connection or a service."""
_NO_CREDENTIALS = (
    "NoCredentialsError",
    "PartialCredentialsError",
    "DefaultCredentialsError",
    "CredentialRetrievalError",
)
_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or an AWS profile",
    "gcs": "GOOGLE_APPLICATION_CREDENTIALS, or run `gcloud auth application-default login`",
    "azure": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    "hub": "HF_TOKEN, or run `hf auth login`",
}


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """Facts of one file. `size` is in bytes."""

    size: int
    stamp: str
    """Differs when the content does: ETag, generation, or time of the last change."""


class RemoteFolder:
    """Files below one URL.

    Every method raises StorageLacks for what is not there, StorageUnreachable where nobody answers, StorageError for the rest.

    Args:
        url: the folder.
        stall_s: seconds without a byte, after which a connection counts as dead.
    """

    def __init__(self, url: str, stall_s: float = STALL_S) -> None:
        self.url = url.rstrip("/")
        self._scheme = url.partition(":")[0]
        self._stall_s = stall_s
        self._file_system, root = self._call("opened", lambda heart: _connect(self._scheme, self.url))
        self._root = root.rstrip("/")

    def find(self, name: str) -> RemoteFile | None:
        """Return the facts of a file. None: there is none."""

        def look(heart: Heartbeat) -> RemoteFile:
            self._file_system.invalidate_cache()
            facts = self._file_system.info(self._path(name))
            if facts["type"] != "file":
                raise FileNotFoundError(name)
            return _remote_file(facts)

        try:
            return self._call("read", look, name)
        except StorageLacks:
            return None

    def files(self) -> dict[str, RemoteFile]:
        """Return all files by name, at any depth.

        Raises:
            StorageLacks: there is no such folder. An object store has none where no object lies.
        """

        def look(heart: Heartbeat) -> dict[str, RemoteFile]:
            self._file_system.invalidate_cache()
            listed = self._file_system.find(self._root, detail=True)
            if not listed:
                self._file_system.ls(self._root)  # tells a bucket that is gone from an empty one
            files = {}
            for path, facts in sorted(listed.items()):
                files[path[len(self._root) :].lstrip("/")] = _remote_file(facts)
            return files

        return self._call("listed", look)

    def read(self, name: str, limit: int) -> bytes:
        """Return the content of a file of at most `limit` bytes."""
        file = self._found(name, limit)

        def read(heart: Heartbeat) -> bytes:
            content: bytes = self._file_system.cat_file(self._path(name), end=min(file.size, limit))
            return content

        return self._call("read", read, name) if file.size else b""

    def open(self, name: str) -> "io.BufferedReader":
        """Open a file to read. It is read by ranges of some megabytes, and may be changed meanwhile: compare `find` after it."""
        file = self._found(name, _LARGEST_FILE)

        def read(start: int, end: int) -> bytes:
            content: bytes = self._call(
                "read", lambda heart: self._file_system.cat_file(self._path(name), start=start, end=end), name
            )
            if len(content) != end - start:
                raise StorageUnreachable(f"{self.url}/{name} was cut short or changed while it was read. Try again.")
            return content

        return io.BufferedReader(_RangeReader(read, file.size), _RANGE_BYTES)

    def download(self, name: str, target: Path, limit: int) -> None:
        """Copy a file to this machine.

        Args:
            name: the file.
            target: where to.
            limit: largest size in bytes.

        Raises:
            OSError: it cannot be written here.
        """
        size = self._found(name, limit).size

        def copy(heart: Heartbeat) -> None:
            self._file_system.get_file(self._path(name), str(target), callback=_watched(heart, size))

        self._call("read", copy, name)
        received = target.stat().st_size
        if received != size:
            raise StorageUnreachable(
                f"{self.url}/{name} must have {size:,} bytes, got {received:,}: the connection was cut, or the file has changed. Try again."
            )

    def upload(self, source: Path, name: str) -> None:
        """Copy a file of this machine to the store. It appears there as a whole."""

        def copy(heart: Heartbeat) -> None:
            self._make_parent(name)
            self._file_system.put_file(str(source), self._path(name), callback=_watched(heart))

        self._call("written", copy, name)

    def write(self, name: str, content: bytes) -> None:
        """Write a file as a whole."""

        def write(heart: Heartbeat) -> None:
            self._make_parent(name)
            self._file_system.pipe_file(self._path(name), content)

        self._call("written", write, name)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        try:
            self._call("removed", lambda heart: self._file_system.rm_file(self._path(name)), name)
        except StorageLacks:
            return

    def _found(self, name: str, limit: int) -> RemoteFile:
        """Return the facts of a file that must be there. Raises StorageError if it has more than `limit` bytes."""
        file = self.find(name)
        if file is None:
            raise StorageLacks(f"{self.url}/{name} cannot be read: no such object or bucket. Check the URL.")
        if file.size > limit:
            raise StorageError(
                f"{self.url}/{name} must have at most {limit:,} bytes, got {file.size:,}. Nothing was fetched."
            )
        return file

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _make_parent(self, name: str) -> None:
        """Make the folder of a file where a store has folders. Object stores have none, and buckets are not made here."""
        if self._scheme in ("file", "memory"):
            self._file_system.makedirs(str(PurePosixPath(self._path(name)).parent), exist_ok=True)

    def _call(self, verb: str, function: Callable[[Heartbeat], R], name: str = "") -> R:
        return call_library(f"{self.url}/{name}" if name else self.url, verb, function, self._stall_s)


class _RangeReader(io.RawIOBase):
    """A file of which each read is one request.

    Args:
        read: returns the bytes from one position to another.
        size: size of the file in bytes.
    """

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        self._read = read
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position and return it."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer with the bytes that follow, and return their number."""
        end = min(self._position + len(buffer), self._size)
        count = max(0, end - self._position)
        if count:
            buffer[:count] = self._read(self._position, end)
            self._position = end
        return count


def call_library(place: str, verb: str, function: Callable[[Heartbeat], R], stall_s: float = STALL_S) -> R:
    """Call a library of a store, and raise its errors as those of this package.

    Args:
        place: URL that is used, for messages.
        verb: what is done with it, for messages.
        function: what is called.
        stall_s: seconds without a sign of life.

    Raises:
        StorageError: the store refuses, lacks the object, or does not answer.
        Exception: another error of the function, such as a full disk.
    """
    try:
        return call_patiently(function, stall_s)
    except StalledError:
        raise StorageUnreachable(
            f"{place} cannot be {verb}: nothing arrived for {stall_s:g} s. Check the network, and try again."
        ) from None
    except FileNotFoundError:
        raise StorageLacks(f"{place} cannot be {verb}: no such object or bucket. Check the URL.") from None
    except Exception as error:
        raise _told(place, verb, error) from None


def _told(place: str, verb: str, error: Exception) -> Exception:
    """Return an error with a message for users. Those of this code stay as they are."""
    kinds = [kind.__name__ for kind in type(error).__mro__]
    if isinstance(error, StorageError):
        return error
    credentials = _CREDENTIALS.get(EXTRAS.get(place.partition(":")[0], ""), "its permissions")
    if isinstance(error, PermissionError) or _status(error) in (401, 403):
        return StorageError(f"{place} cannot be {verb}: access was refused ({one_line(error)}). Check {credentials}.")
    if not set(kinds).isdisjoint(_NO_CREDENTIALS):
        return StorageError(f"{place} cannot be {verb}: there are no credentials. Set {credentials}.")
    if "RepositoryNotFoundError" in kinds or "EntryNotFoundError" in kinds:
        return StorageLacks(
            f"{place} cannot be {verb}: no such repository or file, or a private one. Check the URL and {credentials}."
        )
    if isinstance(error, OSError) and error.errno in _LOCAL_FAULTS:
        return error
    if not isinstance(error, OSError) and not _is_of_library(error):
        return error
    reason = one_line(error) or type(error).__name__
    return StorageUnreachable(f"{place} cannot be {verb}: {reason}. Check the URL and the network.")


def _status(error: Exception) -> int | None:
    """Return the HTTP status of an error that carries a response."""
    status: int | None = getattr(getattr(error, "response", None), "status_code", None)
    return status


def _watched(heart: Heartbeat, size: int | None = None) -> Any:
    """Return a callback of fsspec that beats the heart, and refuses more than `size` bytes."""
    from fsspec.callbacks import Callback

    class Watched(Callback):  # type: ignore[misc]
        """Counts the bytes of one file."""

        def relative_update(self, inc: int = 1) -> None:
            super().relative_update(inc)
            heart.beat()
            if size is not None and self.value > size:
                raise StorageError(f"a file must have {size:,} bytes, as it was listed, got more. Try again.")

    return Watched()


def _is_of_library(error: Exception) -> bool:
    return any(kind.__module__.partition(".")[0] in _LIBRARIES for kind in type(error).__mro__)


def _remote_file(facts: dict[str, Any]) -> RemoteFile:
    stamps = (str(facts[key]) for key in _STAMPS if facts.get(key) is not None)
    return RemoteFile(int(facts["size"] or 0), next(stamps, ""))


def _connect(scheme: str, url: str) -> tuple[Any, str]:
    """Return the file system of a URL, and its path there."""
    # Set before the library is imported, which reads it once.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    options: dict[str, Any] = {"use_listings_cache": False}
    if scheme == "s3":
        timeouts = {"connect_timeout": _CONNECT_S, "read_timeout": STALL_S, "retries": {"max_attempts": 2}}
        options["config_kwargs"] = timeouts
    try:
        from fsspec.core import url_to_fs

        file_system, path = url_to_fs(url, **options)
    except ImportError as error:
        extra = EXTRAS[scheme] or "s3"
        raise StorageError(
            f"{url} needs a package that is not installed ({one_line(error)}). To install it, {how_to_install(extra)}"
        ) from None
    except ValueError as error:
        raise StorageError(f"{url} must be the URL of a folder: {one_line(error)}.") from None
    return file_system, path

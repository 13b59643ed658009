"""The file of corrected answers, one JSON object a line. Rows are only ever added."""

import fcntl
import json
import logging
import os
import stat
from pathlib import Path
from typing import Any

from palm_serve.errors import ConfigError, NotAllowed, Unavailable

log = logging.getLogger(__name__)

MAX_FILE_BYTES = 64 * 1024 * 1024
"""Size at which nothing more is saved. Rows of the page have about 500 bytes."""


class FeedbackFile:
    """A file to which rows are appended. Several servers may append to the same one.

    Args:
        path: the file. It is created where it is missing.

    Raises:
        ConfigError: it cannot be written to.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            os.close(self._open())
        except OSError as error:
            raise ConfigError(
                f"--feedback must be a file that can be written to, got {path}: {error.strerror}. Give another path."
            ) from None

    def append(self, row: dict[str, Any]) -> None:
        """Append one row, and return once it is on the disk.

        Args:
            row: the row.

        Raises:
            NotAllowed: the file is full.
            Unavailable: the row cannot be written.
        """
        line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
        try:
            descriptor = self._open()
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)  # of other servers, and of other threads
                _write(descriptor, line)
            finally:
                os.close(descriptor)
        except OSError as error:
            log.error("feedback cannot be written to %s: %s", self._path, error.strerror)
            raise Unavailable(
                f"the correction was not saved: {error.strerror}. Tell the operator of the server."
            ) from None

    def _open(self) -> int:
        """Open the file. It is opened for each row, so that it can be moved away at any time. Raises OSError."""
        # Without O_NONBLOCK, a pipe would be waited for.
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(self._path, flags, 0o600)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(None, "it is no regular file")
        return descriptor


def _write(descriptor: int, line: bytes) -> None:
    """Write a line at the end of a file. Raises NotAllowed, OSError."""
    size = os.fstat(descriptor).st_size
    if size + len(line) > MAX_FILE_BYTES:
        raise NotAllowed(
            f"the file of corrections must have at most {MAX_FILE_BYTES:,} bytes, got {size:,}. Move it away: a new one is begun."
        )
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        line = b"\n" + line  # another program left a line without its end
    written = 0
    try:
        while written < len(line):
            written += os.write(descriptor, line[written:])
        os.fsync(descriptor)
    except OSError:
        if written:
            os.ftruncate(descriptor, size)  # a part of a row would make the file unreadable
        raise

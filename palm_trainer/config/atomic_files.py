"""Files that appear as a whole or not at all: write a new file, then replace the old one.

It is part of `model`, whose checkpoints need it first; everything that writes a run, a report or a
bundle may import `model`.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NEW_SUFFIX = ".new"


def write_file(path: Path, text: str, *, errors: str = "strict") -> None:
    """Write a UTF-8 text file, replacing a previous one as a whole.

    Args:
        path: file to write.
        text: its contents.
        errors: handling of code points that UTF-8 cannot encode, as in `str.encode`.

    Raises:
        OSError: the file cannot be written. A previous file then stays as it was.
    """
    with replace_file(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", errors))


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file or directory, which takes the place of `path` on success and is removed on failure."""
    temporary = path.with_name(path.name + NEW_SUFFIX)
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)
        raise


def sync_to_disk(path: Path) -> None:
    """Force a file or directory to disk.

    Raises:
        OSError: the file cannot be synchronized. Directories are ignored: some file systems cannot
            do it.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError) if path.is_dir() else contextlib.nullcontext():
            os.fsync(descriptor)
    finally:
        os.close(descriptor)

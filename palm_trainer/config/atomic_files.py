"""Files and directories that appear as a whole or not at all: write a new one, then replace the old one."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from palm_trainer.errors import CheckpointError, PalmError

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


def write_output(path: Path, text: str, *, errors: str = "strict") -> None:
    """Write a file that a command was asked for, as a whole, and create its directory. Pipes and devices are written to.

    Args:
        path: file to write.
        text: its contents.
        errors: what becomes of characters that UTF-8 cannot hold, as `str.encode` takes it.

    Raises:
        PalmError: it is a directory, or there is a file in the place of its directory.
        OSError: the file cannot be written.
    """
    check_output_file(path)
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8", errors=errors)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, text, errors=errors)


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file or directory, which takes the place of `path` on success and is removed on failure.

    Raises:
        PalmError: a directory is in the place of the temporary one. It stays as it is.
    """
    temporary = path.with_name(path.name + NEW_SUFFIX)
    if temporary.is_dir():
        raise PalmError(f"{temporary} must not exist, got a directory. Rename or remove it, or write to another path.")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)
        raise


def check_output_file(path: Path) -> None:
    """Check that a file can be written at a path, before the work whose result it shall hold.

    Raises:
        PalmError: it is a directory, its directory could not be made, or nothing may be written there.
    """
    if path.is_dir():
        raise PalmError(f"{path} must be a file, got a directory. Choose another output file.")
    check_output_place(path.parent)


def check_output_place(output: Path) -> None:
    """Check that a path is a directory that may be written to, or could become one.

    Raises:
        CheckpointError: there is a file in its place, or in that of a directory above it, or nothing may be written there.
    """
    for place in (output, *output.parents):
        if place.exists():
            if not place.is_dir():
                raise CheckpointError(f"{place} is a file. Choose another output directory.")
            if not os.access(place, os.W_OK | os.X_OK):
                raise CheckpointError(
                    f"{place} must be a directory that may be written to, and is not. Choose another output directory."
                )
            return


def check_new_directory(path: Path) -> None:
    """Check that a directory can be created: the path does not exist, or is an empty directory.

    Raises:
        PalmError: there is something.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise PalmError(f"{path} exists and is not empty. Choose another directory, or remove it first.")


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Yield an empty temporary directory, which becomes `path` on success and is removed on failure.

    Raises:
        PalmError: `path` exists and is not empty.
    """
    check_new_directory(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as temporary:
        folder = Path(temporary) / "new"
        folder.mkdir()
        yield folder
        if path.is_dir():
            path.rmdir()
        folder.rename(path)


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

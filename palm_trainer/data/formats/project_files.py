"""The JSON files of an exported project: a directory, or the zip file as it was downloaded."""

import lzma
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

from palm_trainer.data.formats.json_objects import JsonObject, as_object
from palm_trainer.data.formats.json_values import parse_json
from palm_trainer.data.formats.text_files import Defects, check_readable, decode_text
from palm_trainer.errors import DataError

FURTHER_FILE = "file of the project without training texts (passed over)"
_MOST_FILES = 100_000
_MOST_BYTES = 128 << 20
_JSON = ".json"
_PROGRAM_FOLDERS = ("__MACOSX", "node_modules", "site-packages")
"""Directories of programs. `build` or `models` may be intents of a project."""
_FAULTS = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError),
    *(RuntimeError, NotImplementedError, ValueError, OverflowError),
)
"""What `zipfile` raises for bytes that it cannot read."""


class ProjectFiles:
    """Files of a project by their names below it.

    Args:
        path: directory or zip file.

    Raises:
        DataError: it is neither, or a broken zip file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._bytes_left = _MOST_BYTES
        self._archive = None if path.is_dir() else self._open()
        names = _names_in_folder(path) if self._archive is None else self._archive.namelist()
        if len(names) > _MOST_FILES:
            raise DataError(f"{path}: a project must have at most {_MOST_FILES} files, got {len(names)}")
        data_names = {name for name in names if name.endswith(_JSON) and not _is_hidden(name)}
        self.names = sorted(data_names)
        """Names of the JSON files, with `/` between directories."""

    def place(self, name: str) -> str:
        """Return the path of a file, for messages."""
        return f"{self._path}/{name}"

    def load(self, name: str, defects: Defects) -> Any:
        """Return the value of a JSON file.

        Raises:
            DataError: it cannot be read, or is not JSON, or the files are larger than 128 MiB.
        """
        place = self.place(name)
        data = self._read(name)
        self._bytes_left -= len(data)
        if self._bytes_left < 0:
            raise DataError(f"{place}: the files of a project must have at most {_MOST_BYTES >> 20} MiB. Remove some.")
        return parse_json(decode_text(data, Path(place), defects), place, "correct it")

    def load_object(self, name: str, defects: Defects) -> JsonObject:
        """Return the object of a JSON file. Raises DataError as `load`, and for any other value."""
        return as_object(self.load(name, defects), self.place(name))

    def _read(self, name: str) -> bytes:
        if self._archive is not None:
            with self._told_faults(), self._archive.open(name) as member:
                return member.read(self._bytes_left + 1)
        file = self._path / name
        check_readable(file)
        with file.open("rb") as stream:
            return stream.read(self._bytes_left + 1)

    def _open(self) -> zipfile.ZipFile:
        """Open the zip file in memory: it is opened once for all of its files, and nothing has to be closed."""
        check_readable(self._path)
        if self._path.stat().st_size > _MOST_BYTES:
            raise DataError(f"{self._path}: a project must have at most {_MOST_BYTES >> 20} MiB. Remove some files.")
        with self._told_faults():
            return zipfile.ZipFile(BytesIO(self._path.read_bytes()))

    @contextmanager
    def _told_faults(self) -> Iterator[None]:
        """Raise DataError for whatever cannot be read in a zip file."""
        try:
            yield
        except _FAULTS as error:
            raise DataError(
                f"{self._path}: not a zip file that can be read: {error}; unpack it, and give the directory"
            ) from None


def _names_in_folder(folder: Path) -> list[str]:
    """List the files below a directory. Links to directories are not followed, and hidden ones are passed over."""
    names = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        for file in files:
            name = (Path(parent) / file).relative_to(folder).as_posix()
            if name.endswith(_JSON):
                names.append(name)
    return names


def _is_hidden(name: str) -> bool:
    """Return True for a file that programs made, or in a directory of them, such as the one that macOS adds to zip files."""
    return any(segment.startswith(".") or segment in _PROGRAM_FOLDERS for segment in PurePosixPath(name).parts)

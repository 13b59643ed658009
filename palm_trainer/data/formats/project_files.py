"""The JSON files of an exported project: a directory, or the zip file as it was downloaded."""

import lzma
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
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
        self._is_folder = path.is_dir()
        self._bytes_left = _MOST_BYTES
        self.names = sorted(set(_names_in_folder(path) if self._is_folder else self._names_in_zip()))
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
        if self._is_folder:
            file = self._path / name
            check_readable(file)
            with file.open("rb") as stream:
                return stream.read(self._bytes_left + 1)
        with _opened(self._path) as archive, archive.open(name) as member:
            return member.read(self._bytes_left + 1)

    def _names_in_zip(self) -> list[str]:
        check_readable(self._path)
        with _opened(self._path) as archive:
            files = archive.infolist()
        if len(files) > _MOST_FILES:
            raise DataError(f"{self._path}: a project must have at most {_MOST_FILES} files, got {len(files)}")
        names = []
        for file in files:
            if file.filename.endswith(_JSON) and not _is_hidden(file.filename):
                names.append(file.filename)
        return names


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip file. Raises DataError for whatever cannot be read in it."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except _FAULTS as error:
        raise DataError(
            f"{path}: not a zip file that can be read: {error}; unpack it, and give the directory"
        ) from None


def _names_in_folder(folder: Path) -> list[str]:
    """List the JSON files below a directory; links to directories are not followed."""
    names = []
    for parent, _, files in os.walk(folder):
        for file in files:
            name = (Path(parent) / file).relative_to(folder).as_posix()
            if name.endswith(_JSON) and not _is_hidden(name):
                names.append(name)
    if len(names) > _MOST_FILES:
        raise DataError(f"{folder}: a project must have at most {_MOST_FILES} files, got {len(names)}")
    return names


def _is_hidden(name: str) -> bool:
    """Return True for a file that programs made: in a hidden directory, or in the one that macOS adds to zip files."""
    return any(segment.startswith(".") or segment == "__MACOSX" for segment in PurePosixPath(name).parts)

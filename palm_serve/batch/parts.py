"""Parts of the inputs of `palm-serve batch`: consecutive rows of one file, which are answered and written together."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from palm_serve.batch.files import is_url, remote_files, shown, size_and_stamp
from palm_serve.errors import BatchError
from palm_serve.storage.urls import as_url

FORMATS = {".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv", ".txt": "text"}
"""Format of a file by the end of its name."""


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file of the input. `name` is its path below the folder that was given, or its file name."""

    path: Path
    name: str
    format: str


@dataclass(frozen=True, slots=True)
class FileState:
    """Size of a file, and its time of change or what its store has in place of it, by which a change while it is read is noticed."""

    size: int
    stamp: int

    @classmethod
    def of(cls, path: Path) -> "FileState":
        """Return the state of a file. Raises OSError."""
        return cls(*size_and_stamp(path))

    def check(self, path: Path) -> None:
        """Raise BatchError if the file has another state now."""
        if FileState.of(path) != self:
            raise BatchError(
                f"{shown(path)} must stay as it is while it is read, and was changed. Run the same command again."
            )


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows of a file, and the place of their answers."""

    file: InputFile
    state: FileState
    number: int
    """Position of the part in its file."""
    rows: int
    digest: str
    """SHA-256 of the content that the rows depend on."""
    schema: pa.Schema
    """Columns that are read."""
    start: int
    """Parquet: first row in its row group. Otherwise the first byte."""
    end: int
    """Parquet: row after the last one. Otherwise the byte after the last one."""
    group: int = 0
    """Parquet: number of the row group. Otherwise the lines of the file before the part."""

    @property
    def name(self) -> str:
        """Path of the answers below the output folder."""
        return f"{self.file.name}-{self.number:05d}.parquet"


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a part, and why some of them cannot be asked, by position."""

    table: pa.Table
    faults: dict[int, str]


def find_files(inputs: list[Path], output: Path) -> list[InputFile]:
    """Return the files of the inputs: files, and those in folders and below, but for names that begin with '.' or '_'.

    Args:
        inputs: files and folders.
        output: folder of the answers.

    Raises:
        BatchError: an input is missing, has an unknown format or holds the output, or two files have one name.
    """
    files: dict[str, InputFile] = {}
    for place in inputs:
        for path in _files_of(place, output):
            name = path.relative_to(place).as_posix() if path != place else path.name
            file_format = FORMATS.get(path.suffix.lower())
            if file_format is None:
                raise BatchError(
                    f"{shown(path)}: the name must end with one of {', '.join(FORMATS)}, got '{path.suffix}'. Rename or convert it."
                )
            if name in files:
                raise BatchError(
                    f"inputs must have different names, got {shown(files[name].path)} and {shown(path)}. Give the folder above them."
                )
            files[name] = InputFile(path, name, file_format)
    formats = sorted({file.format for file in files.values()})
    if len(formats) > 1:
        raise BatchError(f"inputs must have one format, got {' and '.join(formats)}. Answer them one after another.")
    return [files[name] for name in sorted(files)]


def _files_of(place: Path, output: Path) -> list[Path]:
    if is_url(place):
        objects = remote_files(place)
        if as_url(output) is not None and output.is_relative_to(place):
            raise BatchError(
                f"the output {shown(output)} must not be in the input {shown(place)}. Choose another folder."
            )
        return _visible(place, objects) if objects != [place] else objects
    if place.is_file():
        return [place]
    if not place.exists():
        raise BatchError(f"{place} does not exist. Give a file or a folder.")
    if not place.is_dir():
        raise BatchError(f"{place} must be a file or a folder, got a pipe or device. Save its rows in a file.")
    if not is_url(output) and output.resolve().is_relative_to(place.resolve()):
        raise BatchError(f"the output {output} must not be in the input {place}. Choose another folder.")
    return _visible(place, [path for path in sorted(place.rglob("*")) if path.is_file()])


def _visible(place: Path, files: list[Path]) -> list[Path]:
    """Return the files below a folder whose names do not begin with '.' or '_'."""
    paths = []
    for path in files:
        if not any(step.startswith((".", "_")) for step in path.relative_to(place).parts):
            paths.append(path)
    if not paths:
        raise BatchError(f"{shown(place)} must hold a file ({', '.join(FORMATS)}), got none. Give another folder.")
    return paths

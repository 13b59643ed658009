"""Writing a bundle so that it is there whole or not at all: a temporary directory beside its place, synced and renamed into it."""

import contextlib
import hashlib
import io
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from palm_serve.bundle.loader import MANIFEST
from palm_serve.bundle.manifest import Manifest
from palm_serve.types import FloatArray
from palm_trainer.errors import ExportError
from palm_trainer.model.atomic_files import sync_to_disk

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")
_NAME_LIMIT = 100


class BundleWriter:
    """Files of a bundle in the making.

    Args:
        directory: where they are written for now.
        output: where they will be, for messages.
    """

    def __init__(self, directory: Path, output: Path) -> None:
        self.directory = directory
        self._output = output

    def write(self, name: str, content: bytes) -> None:
        """Writes and syncs one file. Raises ExportError when the disk refuses."""
        path = self.directory / name
        with _explained(self._output):
            path.parent.mkdir(exist_ok=True)
            with path.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())

    def remove(self, name: str) -> None:
        """Takes a file back, and its folder when that was the last."""
        path = self.directory / name
        path.unlink()
        if path.parent != self.directory and not any(path.parent.iterdir()):
            path.parent.rmdir()

    def write_manifest(self, manifest: Manifest) -> Manifest:
        """Writes `manifest` with the checksums of the files as they are now, and the version that follows from them."""
        with _explained(self._output):
            paths = sorted(p for p in self.directory.rglob("*") if p.is_file() and p.name != MANIFEST)
            files = {p.relative_to(self.directory).as_posix(): _sha256(p) for p in paths}
        complete = manifest.model_copy(update={"files": files})
        complete = complete.model_copy(update={"version": complete.digest()})
        self.write(MANIFEST, (complete.model_dump_json(indent=2) + "\n").encode())
        return complete


@contextlib.contextmanager
def staged_bundle(output: Path, *, overwrite: bool = False) -> Iterator[BundleWriter]:
    """Yields a writer; what it wrote becomes `output` when the block ends, and nothing is left when it raises.

    With `overwrite` the bundle that stands there is kept until the new one is complete. Raises ExportError for a place that cannot be used.
    """
    output = Path(os.path.realpath(output))
    _check_place(output, overwrite)
    missing = [parent for parent in output.parents if not parent.exists()]
    staging: Path | None = None
    try:
        with _explained(output):
            output.parent.mkdir(parents=True, exist_ok=True)
            staging = _beside(output, "new")
            staging.mkdir()
        yield BundleWriter(staging, output)
        with _explained(output):
            for folder in (*(p for p in staging.iterdir() if p.is_dir()), staging):
                sync_to_disk(folder)
            _put(staging, output)
    except BaseException:  # Ctrl-C too
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
        for parent in missing:
            with contextlib.suppress(OSError):  # not there, or in use by now
                parent.rmdir()
        raise


def bundle_name(given: str | None, output: Path) -> str:
    """The model's name: as given, or the output directory's with other characters than letters, digits, `._-` replaced. Raises ExportError."""
    if given is None:
        return _NOT_IN_NAMES.sub("-", Path(os.path.realpath(output)).name).lstrip("._-")[:_NAME_LIMIT] or "model"
    if len(given) > _NAME_LIMIT or _NOT_IN_NAMES.search(given) or not given[:1].isalnum():
        raise ExportError(
            f"--name '{given}': a name is 1 to {_NAME_LIMIT} letters, digits, '.', '_' and '-', and starts with a letter or digit. Choose another."
        )
    return given


def npz_bytes(arrays: Mapping[str, FloatArray]) -> bytes:
    """An `.npz` file; the same bytes for the same arrays."""
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, **dict(sorted(arrays.items())))
    return stream.getvalue()


def _check_place(output: Path, overwrite: bool) -> None:
    if not output.exists():
        return
    if not output.is_dir():
        raise ExportError(f"{output} is a file. Choose another --output.")
    if not overwrite:
        raise ExportError(f"{output} exists. Replace it with --overwrite, or choose another --output.")
    if any(output.iterdir()) and not (output / MANIFEST).is_file():
        raise ExportError(
            f"{output} is not empty and holds no bundle ({MANIFEST} is missing), so it is not replaced. Choose another --output."
        )


def _put(staging: Path, output: Path) -> None:
    """Renames into place; the old bundle comes back should that fail."""
    if not output.exists():
        staging.rename(output)
        sync_to_disk(output.parent)
        return
    old = _beside(output, "old")
    try:
        output.rename(old)
        staging.rename(output)
    except BaseException:
        if old.exists() and not output.exists():
            old.rename(output)
        raise
    sync_to_disk(output.parent)
    shutil.rmtree(old, ignore_errors=True)


def _beside(output: Path, what: str) -> Path:
    """A new hidden name next to `output`, on the same file system."""
    return output.with_name(f".{output.name}.{what}-{secrets.token_hex(4)}")


@contextlib.contextmanager
def _explained(output: Path) -> Iterator[None]:
    """Turns what the operating system refuses into a message."""
    try:
        yield
    except OSError as error:
        raise ExportError(
            f"the bundle {output} could not be written: {error.strerror or error}. Free space, check the permissions, or choose another --output."
        ) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

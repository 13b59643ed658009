"""Writing a bundle as a whole: into a temporary directory next to its place, which is synced and then renamed."""

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
from palm_serve.bundle.signature import sign
from palm_serve.errors import BundleError
from palm_serve.types import FloatArray
from palm_trainer.config.atomic_files import sync_to_disk
from palm_trainer.errors import ExportError

_INVALID_CHARACTERS = re.compile(r"[^A-Za-z0-9._-]+")
_MAX_NAME_LENGTH = 100
_DEFAULT_NAME = "model"


class BundleWriter:
    """Writer of the files of a bundle.

    Args:
        directory: temporary directory that they are written to.
        output: final directory, for messages.
    """

    def __init__(self, directory: Path, output: Path) -> None:
        self.directory = directory
        self._output = output
        self._checksums: dict[str, str] = {}

    def write(self, name: str, content: bytes) -> None:
        """Write and sync one file.

        Raises:
            ExportError: if the operating system refuses.
        """
        path = self.directory / name
        with _as_export_errors(self._output):
            path.parent.mkdir(exist_ok=True)
            with path.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
        self._checksums[name] = hashlib.sha256(content).hexdigest()

    def remove(self, name: str) -> None:
        """Remove a file, and its folder if that is then empty."""
        path = self.directory / name
        path.unlink()
        del self._checksums[name]
        if path.parent != self.directory and not any(path.parent.iterdir()):
            path.parent.rmdir()

    def size(self) -> int:
        """Return the bytes of all files."""
        return sum(path.stat().st_size for path in self.directory.rglob("*") if path.is_file())

    def checksums(self) -> dict[str, str]:
        """Return the SHA-256 of all files but the manifest as they were written, by path in the bundle."""
        checksums = dict(sorted(self._checksums.items()))
        checksums.pop(MANIFEST, None)
        return checksums


@contextlib.contextmanager
def staged_bundle(output: Path, *, overwrite: bool = False) -> Iterator[BundleWriter]:
    """Yield a writer for a new bundle, which becomes `output` when the block ends.

    If the block raises, nothing remains. With `overwrite`, an existing bundle stays until the new one is complete.

    Raises:
        ExportError: if `output` cannot be used.
    """
    output = Path(os.path.realpath(output))
    _check_output(output, overwrite)
    missing_parents = [parent for parent in output.parents if not parent.exists()]
    staging: Path | None = None
    try:
        with _as_export_errors(output):
            output.parent.mkdir(parents=True, exist_ok=True)
            staging = _hidden_sibling(output, "new")
            staging.mkdir()
        yield BundleWriter(staging, output)
        with _as_export_errors(output):
            for path in staging.iterdir():
                if path.is_dir():
                    sync_to_disk(path)
            sync_to_disk(staging)
            _move_into_place(staging, output)
    except BaseException:  # Also Ctrl-C.
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
        for parent in missing_parents:
            with contextlib.suppress(OSError):  # It does not exist, or is in use by now.
                parent.rmdir()
        raise


def choose_bundle_name(requested: str | None, output: Path) -> str:
    """Return the requested name, or one from the output directory with invalid characters replaced.

    Raises:
        ExportError: if the requested name is not valid.
    """
    if requested is None:
        directory_name = Path(os.path.realpath(output)).name
        name = _INVALID_CHARACTERS.sub("-", directory_name).lstrip("._-")[:_MAX_NAME_LENGTH]
        return name or _DEFAULT_NAME
    starts_well = requested[:1].isalnum()
    if len(requested) > _MAX_NAME_LENGTH or _INVALID_CHARACTERS.search(requested) or not starts_well:
        raise ExportError(
            f"--name must be 1 to {_MAX_NAME_LENGTH} letters, digits, '.', '_' and '-', and start with a letter or "
            f"digit, got '{requested}'. Choose another name."
        )
    return requested


def compute_signature(manifest: bytes, key: Path) -> bytes:
    """Return the signature of a manifest.

    Raises:
        ExportError: if the key cannot be used.
    """
    try:
        return sign(manifest, key)
    except BundleError as error:
        raise ExportError(f"--sign: {error}") from None


def to_npz_bytes(arrays: Mapping[str, FloatArray]) -> bytes:
    """Serialize arrays as an `.npz` file, with the same bytes for the same arrays."""
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, **dict(sorted(arrays.items())))
    return stream.getvalue()


def _check_output(output: Path, overwrite: bool) -> None:
    if not output.exists():
        return
    if not output.is_dir():
        raise ExportError(f"--output must be a directory, got the file {output}. Choose another --output.")
    if not overwrite:
        raise ExportError(f"{output} exists. Replace it with --overwrite, or choose another --output.")
    if any(output.iterdir()) and not (output / MANIFEST).is_file():
        raise ExportError(
            f"{output} must be empty or a bundle to be replaced, but it has no {MANIFEST}. Choose another --output."
        )


def _move_into_place(staging: Path, output: Path) -> None:
    """Rename the new bundle into place. If that fails, the old one is restored."""
    if not output.exists():
        staging.rename(output)
        sync_to_disk(output.parent)
        return
    old = _hidden_sibling(output, "old")
    try:
        output.rename(old)
        staging.rename(output)
    except BaseException:
        if old.exists() and not output.exists():
            old.rename(output)
        raise
    sync_to_disk(output.parent)
    shutil.rmtree(old, ignore_errors=True)


def _hidden_sibling(output: Path, suffix: str) -> Path:
    """Return a new hidden path next to `output`, on the same file system."""
    return output.with_name(f".{output.name}.{suffix}-{secrets.token_hex(4)}")


@contextlib.contextmanager
def _as_export_errors(output: Path) -> Iterator[None]:
    """Turn errors of the operating system into an ExportError."""
    try:
        yield
    except OSError as error:
        raise ExportError(
            f"the bundle {output} could not be written: {error.strerror or error}. "
            "Free space, check the permissions, or choose another --output."
        ) from error

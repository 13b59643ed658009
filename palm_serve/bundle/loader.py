"""Loads bundles and verifies that they are complete, consistent and unchanged since the export."""

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from pydantic import ValidationError

from palm_serve.bundle.golden import GoldenExample
from palm_serve.bundle.manifest import FORMAT_VERSION, Manifest, tasks_digest
from palm_serve.errors import BundleError
from palm_serve.types import FloatArray

MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
ARRAYS = "decode.npz"
GOLDEN = "golden.jsonl"

_FAULTS_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle. Everything but the graphs is in memory."""

    path: Path
    manifest: Manifest
    tokenizer_json: str
    arrays: Mapping[str, FloatArray]
    """Contents of decode.npz."""
    golden: tuple[GoldenExample, ...]

    def graph(self, variant: str = "plain") -> Path:
        """Return the file of a variant's graph."""
        return self.path / self.manifest.variants[variant].file

    def graph_digest(self) -> str:
        """Return the digest that the metadata of every graph of this bundle must hold under `palm.digest`."""
        return tasks_digest(self.manifest.tasks, self.tokenizer_json.encode())


def load_bundle(path: Path) -> Bundle:
    """Load a bundle and verify its format, its schema, the checksums of all files and its version.

    `engine` checks whether each graph belongs to these tasks, because it reads the graphs.

    Raises:
        BundleError: the bundle is missing, damaged or not valid.
    """
    manifest = _read_manifest(path)
    contents = {name: _read_verified(path, name, digest) for name, digest in manifest.files.items()}
    if manifest.version != manifest.digest():
        raise BundleError(
            f"{path}: manifest.json says version {manifest.version[:12] or '(none)'}, its contents have {manifest.digest()[:12]}; "
            "it was edited after the export: export again"
        )
    return Bundle(
        path,
        manifest,
        _decode_text(path, TOKENIZER, contents),
        _decode_arrays(path, contents.get(ARRAYS)),
        _decode_golden(path, manifest, contents),
    )


def _read_manifest(path: Path) -> Manifest:
    if not path.is_dir():
        raise BundleError(f"{path} is no bundle: no such directory. `palm-export RUN --output {path}` writes one")
    try:
        content: Any = json.loads((path / MANIFEST).read_bytes())
    except FileNotFoundError:
        raise BundleError(
            f"{path} is no bundle: it has no {MANIFEST}. `palm-export` writes bundles from runs"
        ) from None
    except OSError as error:
        raise BundleError(f"{path}/{MANIFEST} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise BundleError(f"{path}/{MANIFEST} is not JSON ({error}); export again") from None
    version = content.get("format_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise BundleError(
            f"{path} has bundle format {version}, this palm-serve reads up to {FORMAT_VERSION}: upgrade palm-nlu, or export with an older one"
        )
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        raise BundleError(f"{path}/{MANIFEST} does not fit the schema: {_describe(error)}; export again") from None


def _read_verified(path: Path, name: str, digest: str) -> bytes:
    """Return the contents of one listed file. Graphs are hashed but not read into memory."""
    relative_path = PurePosixPath(name)
    file = path / name
    if (
        relative_path.is_absolute()
        or ".." in relative_path.parts
        or "\\" in name
        or not file.resolve().is_relative_to(path.resolve())
    ):
        raise BundleError(
            f"{path}/{MANIFEST} lists the file '{name}', which lies outside the bundle; do not trust this bundle"
        )
    in_memory = name in (TOKENIZER, ARRAYS, GOLDEN)
    try:
        with file.open("rb") as stream:
            content = stream.read() if in_memory else b""
            checksum = hashlib.sha256(content) if in_memory else hashlib.file_digest(stream, "sha256")
    except FileNotFoundError:
        raise BundleError(f"{path} lacks the file '{name}', which its manifest lists; copy the bundle again") from None
    except OSError as error:
        raise BundleError(f"{path}/{name} cannot be read: {error.strerror}") from None
    if checksum.hexdigest() != digest:
        raise BundleError(
            f"{path}/{name} was changed or damaged: sha256 is {checksum.hexdigest()[:12]}..., the manifest says {digest[:12]}...; copy the bundle again"
        )
    return content


def _decode_text(path: Path, name: str, contents: Mapping[str, bytes]) -> str:
    if name not in contents:
        raise BundleError(f"{path}/{MANIFEST} lists no {name}, which every bundle has; export again")
    try:
        return contents[name].decode()
    except UnicodeDecodeError as error:
        raise BundleError(f"{path}/{name} is not UTF-8 (byte {error.start}); export again") from None


def _decode_arrays(path: Path, content: bytes | None) -> dict[str, FloatArray]:
    if content is None:
        return {}
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            return {name: np.asarray(stored[name], dtype=np.float32) for name in stored.files}
    except (ValueError, OSError) as error:
        raise BundleError(f"{path}/{ARRAYS} cannot be read: {error}; export again") from None


def _decode_golden(path: Path, manifest: Manifest, contents: Mapping[str, bytes]) -> tuple[GoldenExample, ...]:
    if GOLDEN not in contents:
        return ()
    examples = []
    for number, line in enumerate(_decode_text(path, GOLDEN, contents).split("\n"), start=1):
        if not line:
            continue
        try:
            example = GoldenExample.model_validate_json(line)
        except ValidationError as error:
            raise BundleError(f"{path}/{GOLDEN} line {number}: {_describe(error)}; export again") from None
        unknown = sorted(example.answers.keys() - manifest.tasks.keys())
        if unknown:
            raise BundleError(
                f"{path}/{GOLDEN} line {number} expects an answer of the task '{unknown[0]}', which the manifest lacks; export again"
            )
        examples.append(example)
    return tuple(examples)


def _describe(error: ValidationError) -> str:
    """Describe the first faults as `field: fault`, without the values."""
    faults = []
    for fault in error.errors():
        field = ".".join(map(str, fault["loc"])) or "top level"
        faults.append(f"{field}: {fault['msg']}")
    further_faults = len(faults) - _FAULTS_SHOWN
    suffix = f" (and {further_faults} more)" if further_faults > 0 else ""
    return "; ".join(faults[:_FAULTS_SHOWN]) + suffix

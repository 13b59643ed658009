"""Reading and verifying bundles. What `load_bundle` returns is complete, unchanged since it was written, and consistent."""

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

MANIFEST, TOKENIZER, ARRAYS, GOLDEN = "manifest.json", "tokenizer.json", "decode.npz", "golden.jsonl"


_FAULTS_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle, all of it in memory but the graphs. `arrays` are the contents of decode.npz."""

    path: Path
    manifest: Manifest
    tokenizer_json: str
    arrays: Mapping[str, FloatArray]
    golden: tuple[GoldenExample, ...]

    def graph(self, variant: str = "plain") -> Path:
        """File of a variant's graph."""
        return self.path / self.manifest.variants[variant].file

    def graph_digest(self) -> str:
        """What the metadata of every graph of this bundle must hold under `palm.digest`."""
        return tasks_digest(self.manifest.tasks, self.tokenizer_json.encode())


def load_bundle(path: Path) -> Bundle:
    """Reads and verifies the bundle in the directory `path`: format, schema, checksums of all files, version.

    Raises BundleError. That each graph belongs to these tasks is checked where graphs are read, in `engine`.
    """
    manifest = _read_manifest(path)
    contents = {name: _verified(path, name, digest) for name, digest in manifest.files.items()}
    if manifest.version != manifest.digest():
        raise BundleError(
            f"{path}: manifest.json says version {manifest.version[:12] or '(none)'}, its contents have {manifest.digest()[:12]}; "
            "it was edited after the export: export again"
        )
    return Bundle(
        path,
        manifest,
        _text(path, TOKENIZER, contents),
        _arrays(path, contents.get(ARRAYS)),
        _golden(path, manifest, contents),
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
        raise BundleError(f"{path}/{MANIFEST} does not fit the schema: {_faults(error)}; export again") from None


def _verified(path: Path, name: str, digest: str) -> bytes:
    """Contents of one listed file. Graphs are hashed but not kept."""
    parts = PurePosixPath(name)
    file = path / name
    if parts.is_absolute() or ".." in parts.parts or "\\" in name or not file.resolve().is_relative_to(path.resolve()):
        raise BundleError(
            f"{path}/{MANIFEST} lists the file '{name}', which lies outside the bundle; do not trust this bundle"
        )
    keep = name in (TOKENIZER, ARRAYS, GOLDEN)
    try:
        with file.open("rb") as stream:
            content = stream.read() if keep else b""
            found = hashlib.sha256(content) if keep else hashlib.file_digest(stream, "sha256")
    except FileNotFoundError:
        raise BundleError(f"{path} lacks the file '{name}', which its manifest lists; copy the bundle again") from None
    except OSError as error:
        raise BundleError(f"{path}/{name} cannot be read: {error.strerror}") from None
    if found.hexdigest() != digest:
        raise BundleError(
            f"{path}/{name} was changed or damaged: sha256 is {found.hexdigest()[:12]}..., the manifest says {digest[:12]}...; copy the bundle again"
        )
    return content


def _text(path: Path, name: str, contents: Mapping[str, bytes]) -> str:
    if name not in contents:
        raise BundleError(f"{path}/{MANIFEST} lists no {name}, which every bundle has; export again")
    try:
        return contents[name].decode()
    except UnicodeDecodeError as error:
        raise BundleError(f"{path}/{name} is not UTF-8 (byte {error.start}); export again") from None


def _arrays(path: Path, content: bytes | None) -> dict[str, FloatArray]:
    if content is None:
        return {}
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            return {name: np.asarray(stored[name], dtype=np.float32) for name in stored.files}
    except (ValueError, OSError) as error:
        raise BundleError(f"{path}/{ARRAYS} cannot be read: {error}; export again") from None


def _golden(path: Path, manifest: Manifest, contents: Mapping[str, bytes]) -> tuple[GoldenExample, ...]:
    if GOLDEN not in contents:
        return ()
    examples = []
    for number, line in enumerate(_text(path, GOLDEN, contents).split("\n"), start=1):
        if not line:
            continue
        try:
            example = GoldenExample.model_validate_json(line)
        except ValidationError as error:
            raise BundleError(f"{path}/{GOLDEN} line {number}: {_faults(error)}; export again") from None
        unknown = sorted(example.answers.keys() - manifest.tasks.keys())
        if unknown:
            raise BundleError(
                f"{path}/{GOLDEN} line {number} expects an answer of the task '{unknown[0]}', which the manifest lacks; export again"
            )
        examples.append(example)
    return tuple(examples)


def _faults(error: ValidationError) -> str:
    """The first faults, `where: what`, without the values."""
    found = [f"{'.'.join(map(str, fault['loc'])) or 'top level'}: {fault['msg']}" for fault in error.errors()]
    more = f" (and {len(found) - _FAULTS_SHOWN} more)" if len(found) > _FAULTS_SHOWN else ""
    return "; ".join(found[:_FAULTS_SHOWN]) + more

"""Loads bundles and verifies that they are complete, consistent and unchanged since the export."""

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from mmap import mmap
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from palm_serve.bundle.arrays import MAX_ARRAY_BYTES, read_arrays
from palm_serve.bundle.files import (
    MANIFEST,
    MIB,
    SIGNATURE,
    check_complete,
    check_digest,
    check_names,
    copy_file,
    hash_file,
    read_file,
)
from palm_serve.bundle.golden import GoldenExample
from palm_serve.bundle.graph_file import MAX_GRAPH_BYTES, GraphFile, external_files
from palm_serve.bundle.manifest import FORMAT_VERSION, Manifest, tasks_digest
from palm_serve.bundle.proof import MAX_PROOF_BYTES, Proof, read_proof
from palm_serve.bundle.signature import check_signature
from palm_serve.bundle.strict_json import parse_json, parse_model
from palm_serve.bundle.values_file import ValuesFile, check_tasks
from palm_serve.errors import BundleError
from palm_serve.system.memory_file import MemoryFile
from palm_serve.types import FloatArray

__all__ = [
    "ARRAYS",
    "GOLDEN",
    "MANIFEST",
    "PROOF",
    "SIGNATURE",
    "TOKENIZER",
    "VALUES",
    "Bundle",
    "load_bundle",
    "split_pin",
    "stated_version",
]

TOKENIZER = "tokenizer.json"
ARRAYS = "decode.npz"
GOLDEN = "golden.jsonl"
PROOF = "proof.npz"
VALUES = "values.json"
FETCHED = ".fetched"
"""Marks a folder that holds the fetched part of a bundle. Files that begin with a dot belong to no bundle."""

FILE_LIMITS = {
    TOKENIZER: 64 * MIB,
    ARRAYS: MAX_ARRAY_BYTES + MIB,
    GOLDEN: 16 * MIB,
    PROOF: MAX_PROOF_BYTES + MIB,
    VALUES: 32 * MIB,
}
"""Limits in bytes of the files that are kept in memory. The tokenizers of multilingual encoders have 17 MB."""
MANIFEST_LIMIT = 16 * MIB
WEIGHTS_LIMIT = 1 << 40
_GOLDEN_EXAMPLES = 1000
"""Limit of golden examples. Each is answered before the bundle serves."""

_PIN = re.compile(r"(.*)@sha256:(.*)", re.DOTALL)
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle. Everything but the graphs is in memory."""

    path: Path
    manifest: Manifest
    tokenizer_json: str
    arrays: Mapping[str, FloatArray]
    """Contents of decode.npz."""
    golden: tuple[GoldenExample, ...]
    unverified: set[str] = field(default_factory=set)
    """Files that were not compared with the manifest yet. See `verify`."""
    proof: Proof | None = None
    """Contents of proof.npz. None: the bundle is of an earlier version."""
    values: ValuesFile | None = None
    """Contents of values.json. None: the bundle has none."""
    left_out: frozenset[str] = frozenset()
    """Files that were not fetched, so that nothing of them can be used. See `bundle.fetch`."""
    pause: Callable[[], object] | None = None
    """Called after each slice of a graph that is read, so that other work can go first."""

    def has_graph(self, variant: str) -> bool:
        """Return True if the graph of a variant is here."""
        return self.manifest.variants[variant].file not in self.left_out

    @property
    def proven(self) -> bool:
        """True if there is a golden example with an answer."""
        return any(example.answers for example in self.golden)

    def graph(self, variant: str = "plain") -> Path:
        """Return the file of a variant's graph."""
        return self.path / self.manifest.variants[variant].file

    def read_graph(self, variant: str = "plain") -> GraphFile:
        """Read a variant's graph with its external data, and compare with the manifest the very bytes that are returned.

        Raises:
            BundleError: a file is missing or was changed, or the graph refers to one that the manifest does not list.
        """
        name = self.manifest.variants[variant].file
        content, memory_file = self._read_content(name)
        external = {}
        for location, file in self._external_files(name, content).items():
            with BytesIO() as target:
                self._copy_verified(file, WEIGHTS_LIMIT, target)
                external[location] = target.getvalue()
        return GraphFile(self.path / name, content, external, memory_file)

    def verify(self) -> None:
        """Compare the files that were not read yet with the manifest.

        Raises:
            BundleError: as for `read_graph`.
        """
        graphs = set()
        for variant in self.manifest.variants.values():
            graphs.add(variant.file)
        for name in sorted(self.unverified):
            if name in graphs:
                self._external_files(name, self._read_content(name)[0])
            else:
                check_digest(self.path, name, hash_file(self.path, name), self.manifest.files)
                self.unverified.discard(name)

    def _read_content(self, name: str) -> tuple[bytes | mmap, MemoryFile | None]:
        """Return the verified content of a graph, and the file in memory that holds it, if this system has such files."""
        try:
            file = MemoryFile()
        except OSError:
            with BytesIO() as target:
                self._copy_verified(name, MAX_GRAPH_BYTES, target)
                return target.getvalue(), None
        self._copy_verified(name, MAX_GRAPH_BYTES, file)
        return (file.view(), file) if file.tell() else (b"", None)

    def _copy_verified(self, name: str, limit: int, target: BinaryIO | MemoryFile) -> None:
        """Copy one listed file, and compare the bytes that were copied with the manifest."""
        digest = copy_file(self.path, name, limit, target, self.pause)
        check_digest(self.path, name, digest, self.manifest.files)
        self.unverified.discard(name)

    def _external_files(self, graph: str, content: bytes | mmap) -> dict[str, str]:
        """Return the files that a graph refers to: name in the manifest by name in the graph."""
        try:
            locations = external_files(content)
        except ValueError as error:
            raise BundleError(f"{self.path}/{graph} cannot be read: {error}; export again") from None
        files = {}
        for location in sorted(locations):
            file = (PurePosixPath(graph).parent / location).as_posix()
            if file not in self.manifest.files:
                raise BundleError(
                    f"{self.path}/{graph} refers to the file '{location}', which the manifest does not list; export again"
                )
            files[location] = file
        return files

    def graph_digest(self) -> str:
        """Return the digest that the metadata of every graph of this bundle must hold under `palm.digest`."""
        return tasks_digest(self.manifest.tasks, self.tokenizer_json.encode())


def split_pin(path: Path) -> tuple[Path, str | None]:
    """Split `BUNDLE@sha256:DIGEST` into the directory and the digest of its contents. None: the bundle is not pinned.

    Raises:
        BundleError: the digest does not have 64 hexadecimal digits.
    """
    match = _PIN.fullmatch(str(path))
    if match is None:
        return path, None
    directory, digest = match.groups()
    if not _DIGEST.fullmatch(digest):
        raise BundleError(
            f"the digest of {directory} must have 64 hexadecimal digits, got '{digest}'. `palm-serve check` prints it."
        )
    return Path(directory), digest.lower()


def stated_version(path: Path) -> str:
    """Return the version that a manifest names, unverified. Empty: none can be read, which `load_bundle` reports."""
    try:
        content = parse_json(read_file(path, MANIFEST, MANIFEST_LIMIT).decode("utf-8-sig"))
        return str(content["version"])
    except (BundleError, ValueError, LookupError, TypeError):
        return ""


def load_bundle(
    path: Path,
    *,
    trust: Path | None = None,
    allow_unproven: bool = True,
    defer_graphs: bool = False,
    pause: Callable[[], object] | None = None,
) -> Bundle:
    """Load a bundle and verify its format, its schema, the checksums of all files and its version.

    `engine` checks whether each graph belongs to these tasks, because it reads the graphs.

    Args:
        path: directory of the bundle. `DIR@sha256:DIGEST` loads it only if its contents have this digest.
        trust: folder of public keys. The bundle must be signed with one of them. None: no signature is asked for.
        allow_unproven: load a bundle without golden examples too.
        defer_graphs: leave out the graphs. `Bundle.read_graph` verifies those that are read, `Bundle.verify` the others.
        pause: called after each slice of a graph that is read. None: there is no pause.

    Raises:
        BundleError: the bundle is missing, damaged, not valid, or not the requested or a trusted one.
    """
    path, pin = split_pin(path)
    manifest = _read_manifest(path, trust)
    check_pin(path, manifest.version, pin)
    check_complete(path, manifest.files)
    contents = {}
    for name in FILE_LIMITS.keys() & manifest.files.keys():
        contents[name] = _read_verified(path, name, FILE_LIMITS[name], manifest.files)
    left_out = _left_out(path, manifest)
    bundle = Bundle(
        path,
        manifest,
        _decode_text(path, TOKENIZER, contents),
        _decode_arrays(path, manifest, contents.get(ARRAYS)),
        _decode_golden(path, manifest, contents),
        manifest.files.keys() - contents.keys() - left_out,
        _decode_proof(path, manifest, contents.get(PROOF)),
        _decode_values(path, manifest, contents),
        left_out,
        pause,
    )
    if not allow_unproven and not bundle.proven:
        raise BundleError(
            f"{path} must hold a golden example with an answer, got none, so nothing shows that it answers as at the export. "
            "Export it again, or serve it with --allow-unproven."
        )
    if not defer_graphs:
        bundle.verify()
    return bundle


def _read_manifest(path: Path, trust: Path | None) -> Manifest:
    if os.path.lexists(path) and not path.is_dir():
        raise BundleError(f"{path} must be a bundle directory, got a file. Give the directory that holds {MANIFEST}.")
    if not path.is_dir():
        raise BundleError(f"{path} is no bundle: no such directory. `palm-export RUN --output {path}` writes one")
    if not (path / MANIFEST).exists():
        raise BundleError(f"{path} is no bundle: it has no {MANIFEST}. `palm-export` writes bundles from runs")
    raw = read_file(path, MANIFEST, MANIFEST_LIMIT)
    if trust is not None:
        check_signature(path, raw, trust)
    return parse_manifest(path, raw)


def parse_manifest(path: Path | str, raw: bytes) -> Manifest:
    """Return the manifest of a bundle, whose schema, names and version are right.

    Args:
        path: where the bundle is, for messages.
        raw: content of the file.

    Raises:
        BundleError: it is no manifest, of a later format, or was edited.
    """
    try:
        text = raw.decode("utf-8-sig")
        content = parse_json(text)
    except ValueError as error:
        raise BundleError(f"{path}/{MANIFEST} is not JSON ({error}); export again") from None
    version = content.get("format_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise BundleError(
            f"{path} has bundle format {version}, this palm-serve reads up to {FORMAT_VERSION}: upgrade PALM, or export with an older one"
        )
    try:
        manifest = parse_model(Manifest, text)
    except ValueError as error:
        raise BundleError(f"{path}/{MANIFEST} does not fit the schema: {error}; export again") from None
    check_names(path, manifest.files)
    if manifest.version != manifest.digest():
        raise BundleError(
            f"{path}: manifest.json says version {manifest.version[:12] or '(none)'}, its contents have {manifest.digest()[:12]}; "
            "it was edited after the export: export again"
        )
    return manifest


def check_pin(path: Path | str, version: str, pin: str | None) -> None:
    """Check that a bundle is the one that is asked for.

    Args:
        path: where the bundle is, for messages.
        version: digest of its contents.
        pin: digest that is asked for. None: any.

    Raises:
        BundleError: it is another one.
    """
    if pin is not None and version != pin:
        raise BundleError(
            f"{path} must have the digest sha256:{pin}, got sha256:{version}. It is another bundle, or a changed one."
        )


def _left_out(path: Path, manifest: Manifest) -> frozenset[str]:
    """Return the files that were not fetched. In a folder that was not fetched, a file that lacks is a fault."""
    if not (path / FETCHED).exists():
        return frozenset()
    names = manifest.files.keys() - FILE_LIMITS.keys()
    return frozenset(name for name in names if not os.path.lexists(path / name))


def _read_verified(path: Path, name: str, limit: int, files: Mapping[str, str]) -> bytes:
    """Read one listed file, and compare its bytes with the manifest."""
    content = read_file(path, name, limit)
    check_digest(path, name, hashlib.sha256(content).hexdigest(), files)
    return content


def _decode_text(path: Path, name: str, contents: Mapping[str, bytes]) -> str:
    if name not in contents:
        raise BundleError(f"{path}/{MANIFEST} lists no {name}, which every bundle has; export again")
    try:
        return contents[name].decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BundleError(f"{path}/{name} is not UTF-8 (byte {error.start}); export again") from None


def _decode_arrays(path: Path, manifest: Manifest, content: bytes | None) -> dict[str, FloatArray]:
    if content is None:
        return {}
    names: set[str] = set()
    for task in manifest.tasks.values():
        names.update(task.decode.arrays.values())
    try:
        return read_arrays(content, names)
    except ValueError as error:
        raise BundleError(f"{path}/{ARRAYS} cannot be read: {error}; export again") from None


def _decode_proof(path: Path, manifest: Manifest, content: bytes | None) -> Proof | None:
    if content is None:
        return None
    try:
        return read_proof(content, manifest)
    except ValueError as error:
        raise BundleError(f"{path}/{PROOF} cannot be read: {error}; export again") from None


def _decode_values(path: Path, manifest: Manifest, contents: Mapping[str, bytes]) -> ValuesFile | None:
    if VALUES not in contents:
        return None
    text = _decode_text(path, VALUES, contents)
    try:
        values = parse_model(ValuesFile, text)
        check_tasks(values, manifest.tasks)
    except ValueError as error:
        raise BundleError(f"{path}/{VALUES} cannot be read: {error}; export again") from None
    return values


def _decode_golden(path: Path, manifest: Manifest, contents: Mapping[str, bytes]) -> tuple[GoldenExample, ...]:
    if GOLDEN not in contents:
        return ()
    examples: list[GoldenExample] = []
    for number, line in enumerate(_decode_text(path, GOLDEN, contents).split("\n"), start=1):
        if not line.strip():
            continue
        if len(examples) == _GOLDEN_EXAMPLES:
            raise BundleError(
                f"{path}/{GOLDEN} must have at most {_GOLDEN_EXAMPLES:,} examples, got more; export again"
            )
        try:
            example = parse_model(GoldenExample, line)
        except ValueError as error:
            raise BundleError(f"{path}/{GOLDEN} line {number}: {error}; export again") from None
        unknown = sorted(example.answers.keys() - manifest.tasks.keys())
        if unknown:
            raise BundleError(
                f"{path}/{GOLDEN} line {number} expects an answer of the task '{unknown[0][:80]}', which the manifest lacks; export again"
            )
        examples.append(example)
    return tuple(examples)

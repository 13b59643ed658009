"""Fetches bundles from object stores and from the Hub into a cache, by their digests.

    CACHE/bundles/DIGEST/    one bundle, or the part of it that was asked for
    CACHE/bundles/DIGEST.lock
    CACHE/urls/KEY           digest that a URL had last

A file enters its folder by a rename, when it is complete and was compared with the manifest. The manifest of a new folder comes
last. So a folder that holds a manifest is whole at any moment, whatever was killed. Graphs that no option can choose are left out.
"""

import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from palm_serve.bundle.files import MANIFEST, SIGNATURE, hash_file
from palm_serve.bundle.graph_file import MAX_GRAPH_BYTES, external_files
from palm_serve.bundle.loader import (
    FETCHED,
    FILE_LIMITS,
    MANIFEST_LIMIT,
    WEIGHTS_LIMIT,
    check_pin,
    parse_manifest,
    split_pin,
)
from palm_serve.bundle.manifest import Manifest
from palm_serve.bundle.signature import SIGNATURE_BYTES, check_signature
from palm_serve.errors import BundleError, StorageError, StorageUnreachable
from palm_serve.storage.remote_folder import RemoteFolder
from palm_serve.storage.urls import as_url

log = logging.getLogger(__name__)

Chosen = Callable[[Manifest], Collection[str] | None]
"""Returns the variants whose graphs are needed. None: the whole bundle."""

_ATTEMPTS = 3
"""Fetches of a bundle that is replaced meanwhile."""
_FREE_BYTES = 1 << 26
"""Bytes of the disk that a fetch leaves free."""


class _Replaced(Exception):
    """The manifest has changed since it was read."""


def fetch_bundle(
    place: Path, cache: Path, *, trust: Path | None = None, choose_variants: Chosen = lambda manifest: None
) -> Path:
    """Fetch a bundle into the cache, unless it is there, and return its folder with its digest: `DIR@sha256:DIGEST`.

    A URL with a digest that is in the cache is not asked for. One without is asked for its manifest. Where nobody answers,
    the bundle that it had last serves, with a warning.

    Args:
        place: `URL`, or `URL@sha256:DIGEST`.
        cache: directory of the cache.
        trust: folder of public keys. Nothing but the manifest of a bundle is fetched that none of them signed.
        choose_variants: returns the variants that are needed.

    Raises:
        BundleError: the bundle is not the one that is asked for, was changed, is not signed as `trust` asks, or is no bundle.
        StorageError: it cannot be read.
        OSError: the cache cannot be written.
    """
    directory, pin = split_pin(place)
    url = as_url(directory)
    assert url is not None
    url = url.rstrip("/")
    bundles = cache / "bundles"
    bundles.mkdir(parents=True, exist_ok=True)
    if pin is not None and _is_complete(bundles / pin, url, choose_variants):
        return Path(f"{bundles / pin}@sha256:{pin}")
    note = cache / "urls" / hashlib.sha256(url.encode()).hexdigest()
    try:
        digest = _fetch_current(RemoteFolder(url), pin, bundles, trust, choose_variants)
    except StorageUnreachable as error:
        last = "" if pin is not None or not note.is_file() else note.read_text(encoding="utf-8")
        if not last or not _is_complete(bundles / last, url, choose_variants):
            raise
        log.warning("%s; the bundle that it had last is used: sha256:%s", error, last)
        digest = last
    note.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=bundles, prefix=".new-") as beside:
        (Path(beside) / "note").write_text(digest, encoding="utf-8")
        os.replace(Path(beside) / "note", note)
    return Path(f"{bundles / digest}@sha256:{digest}")


def _fetch_current(
    remote: RemoteFolder, pin: str | None, bundles: Path, trust: Path | None, choose_variants: Chosen
) -> str:
    """Fetch what a URL has now, and return its digest."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return _Fetch(remote, bundles, trust, choose_variants).run(pin)
        except _Replaced:
            if attempt == _ATTEMPTS:
                raise BundleError(
                    f"{remote.url} must stay as it is while it is fetched, and was replaced {_ATTEMPTS} times. Try again."
                ) from None
    raise AssertionError


class _Fetch:
    """One fetch of one bundle."""

    def __init__(self, remote: RemoteFolder, bundles: Path, trust: Path | None, choose_variants: Chosen) -> None:
        self._remote = remote
        self._bundles = bundles
        self._trust = trust
        self._chosen = choose_variants
        self._raw = remote.read(MANIFEST, MANIFEST_LIMIT)
        self._manifest = parse_manifest(remote.url, self._raw)

    def run(self, pin: str | None) -> str:
        """Fetch what lacks, and return the digest."""
        digest = self._manifest.version
        check_pin(self._remote.url, digest, pin)
        with _beside(self._bundles, digest) as beside:
            (beside / MANIFEST).write_bytes(self._raw)
            if self._remote.find(SIGNATURE) is not None:
                (beside / SIGNATURE).write_bytes(self._remote.read(SIGNATURE, SIGNATURE_BYTES))
            if self._trust is not None:
                check_signature(beside, self._raw, self._trust)
            self._fetch_files(self._bundles / digest, beside)
        return digest

    def _fetch_files(self, folder: Path, beside: Path) -> None:
        folder.mkdir(exist_ok=True)
        (folder / FETCHED).touch()
        needed = first_files(self._manifest, self._chosen(self._manifest))
        self._fetch_some(folder, beside, needed)
        self._fetch_some(folder, beside, external_names(folder, self._manifest, needed))
        for name in (SIGNATURE, MANIFEST):
            if (beside / name).exists():
                os.replace(beside / name, folder / name)

    def _fetch_some(self, folder: Path, beside: Path, names: Collection[str]) -> None:
        """Fetch the files of these names that are not there, or damaged."""
        missing = [name for name in sorted(names) if not _is_intact(folder, name, self._manifest)]
        self._check_sizes(missing)
        for name in missing:
            target = beside / "file"
            self._remote.download(name, target, _limit(name, self._manifest))
            digest = hash_file(beside, "file")
            if digest != self._manifest.files[name]:
                if self._remote.read(MANIFEST, MANIFEST_LIMIT) != self._raw:
                    raise _Replaced
                raise BundleError(
                    f"{self._remote.url}/{name} was changed or damaged: its digest must be sha256:{self._manifest.files[name]}, "
                    f"got sha256:{digest}. Push the bundle again."
                )
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(target, folder / name)

    def _check_sizes(self, names: Collection[str]) -> None:
        """Check the sizes of files before any of them is fetched. Raises StorageError."""
        size = 0
        for name in names:
            file = self._remote.find(name)
            if file is None:
                if self._remote.read(MANIFEST, MANIFEST_LIMIT) != self._raw:
                    raise _Replaced
                raise BundleError(
                    f"{self._remote.url} lacks the file '{name}', which its manifest lists. Push the bundle again."
                )
            limit = _limit(name, self._manifest)
            if file.size > limit:
                raise BundleError(
                    f"{self._remote.url}/{name} must have at most {limit:,} bytes, got {file.size:,}. Nothing of it was fetched. Push the bundle again."
                )
            size += file.size
        free = shutil.disk_usage(self._bundles).free - _FREE_BYTES
        if size > free:
            raise StorageError(
                f"{self._remote.url} needs {size:,} bytes in {self._bundles}, where {max(free, 0):,} are free. "
                "Remove bundles there, or choose another disk with XDG_CACHE_HOME."
            )
        if names:
            log.info("fetching %d files of %s, %.1f MB", len(names), self._remote.url, size / 1e6)


def first_files(manifest: Manifest, variants: Collection[str] | None) -> set[str]:
    """Return the files of a bundle that are needed to serve some variants, except the external data of their graphs.

    Args:
        manifest: the manifest.
        variants: names of variants. None: all files.
    """
    if variants is None:
        return set(manifest.files)
    names = manifest.files.keys() & FILE_LIMITS.keys()
    return {*names, *(manifest.variants[variant].file for variant in variants)}


def external_names(folder: Path, manifest: Manifest, graphs: Collection[str]) -> set[str]:
    """Return the listed files to which graphs refer. Others are refused when the bundle is loaded.

    Args:
        folder: folder that holds the graphs.
        manifest: the manifest.
        graphs: names of files, graphs among them.
    """
    names = set()
    for variant in manifest.variants.values():
        if variant.file not in graphs:
            continue
        try:
            locations = external_files((folder / variant.file).read_bytes())
        except ValueError:  # told when the bundle is loaded
            continue
        for location in locations:
            names.add((PurePosixPath(variant.file).parent / location).as_posix())
    return names & manifest.files.keys()


def _is_complete(folder: Path, url: str, choose_variants: Chosen) -> bool:
    """Return True if the cache has what is needed of a bundle, undamaged."""
    try:
        manifest = parse_manifest(url, (folder / MANIFEST).read_bytes())
        needed = first_files(manifest, choose_variants(manifest))
        if not all(_is_intact(folder, name, manifest) for name in needed):
            return False
        return all(_is_intact(folder, name, manifest) for name in external_names(folder, manifest, needed))
    except (OSError, BundleError):
        return False


def _is_intact(folder: Path, name: str, manifest: Manifest) -> bool:
    try:
        return hash_file(folder, name) == manifest.files[name]
    except BundleError:
        return False


def _limit(name: str, manifest: Manifest) -> int:
    """Return the largest size of a file in bytes."""
    if name in FILE_LIMITS:
        return FILE_LIMITS[name]
    graphs = [variant.file for variant in manifest.variants.values()]
    return MAX_GRAPH_BYTES if name in graphs else WEIGHTS_LIMIT


@contextmanager
def _beside(bundles: Path, digest: str) -> Iterator[Path]:
    """Yield a folder for files that are being fetched, while no other process fetches the same bundle.

    What a killed process has left there is removed.
    """
    import fcntl

    with (bundles / f"{digest}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        beside = bundles / f".{digest}.new"
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
        try:
            yield beside
        finally:
            shutil.rmtree(beside, ignore_errors=True)

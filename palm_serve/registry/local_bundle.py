"""Bundles of URLs, as folders of this machine."""

import asyncio
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from palm_serve.bundle.loader import PROOF
from palm_serve.bundle.manifest import Manifest
from palm_serve.engine import providers, timing
from palm_serve.errors import StorageError
from palm_serve.proof.candidates import failed_gate, machine_candidates
from palm_serve.proof.selection import EngineRequest
from palm_serve.storage.patience import in_daemon_thread
from palm_serve.storage.urls import as_url


def local_bundle(
    place: Path, request: EngineRequest | None, *, cache: Path | None = None, trust: Path | None = None
) -> Path:
    """Return a bundle's folder on this machine, to which a URL is fetched. Paths of this machine are returned as they are.

    Args:
        place: directory or URL of the bundle, with `@sha256:DIGEST` or without.
        request: the engine, whose graphs are fetched. None: the whole bundle.
        cache: directory of the cache. None: the user's cache directory.
        trust: folder of public keys.

    Raises:
        BundleError: the bundle must not be used.
        StorageError: the bundle cannot be fetched.
        OSError: the cache cannot be written.
    """
    if as_url(place) is None:
        return place
    from palm_serve.bundle.fetch import fetch_bundle

    folder = cache or timing.default_cache()
    if folder is None:
        raise StorageError(f"{place} needs a cache directory, and the user has no home. Set --cache-dir.")

    def choose_variants(manifest: Manifest) -> Collection[str] | None:
        return None if request is None else needed_variants(manifest, request)

    return fetch_bundle(place, folder, trust=trust, choose_variants=choose_variants)


async def local_bundle_in_thread(
    place: Path, request: EngineRequest | None, *, cache: Path | None = None, trust: Path | None = None
) -> Path:
    """Call `local_bundle` in a thread that does not keep the process from ending.

    Args:
        place: directory or URL of the bundle.
        request: the engine, whose graphs are fetched. None: the whole bundle.
        cache: directory of the cache. None: the user's cache directory.
        trust: folder of public keys.

    Raises:
        PalmServeError: as `local_bundle`.
        OSError: the cache cannot be written.
    """
    if as_url(place) is None:
        return place
    return await asyncio.wrap_future(in_daemon_thread(lambda: local_bundle(place, request, cache=cache, trust=trust)))


def needed_variants(manifest: Manifest, request: EngineRequest) -> Collection[str] | None:
    """Return the variants of a bundle that an engine can be chosen from on this machine. None: all that there is.

    Args:
        manifest: the manifest of the bundle.
        request: options of the engine.
    """
    if PROOF not in manifest.files:
        return None
    available = providers.available_providers()
    variants = set()
    for name in request.provider.split(","):
        single_request = replace(request, provider=name)
        for candidate in machine_candidates(manifest, available):
            if single_request.allows(candidate) and not failed_gate(manifest, candidate):
                variants.add(candidate.variant)
    return variants or None

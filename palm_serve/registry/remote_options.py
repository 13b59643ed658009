"""What the options of a server name by URL."""

from pathlib import Path

from palm_serve.config import ServeOptions
from palm_serve.engine.timing import default_cache
from palm_serve.errors import ConfigError
from palm_serve.proof.selection import EngineRequest
from palm_serve.registry.local_bundle import local_bundle, local_bundle_in_thread
from palm_serve.registry.registry import Registry
from palm_serve.registry.remote_models import RemoteModels, watch_folder
from palm_serve.registry.watcher import Watcher
from palm_serve.storage.urls import as_url


def make_watcher(registry: Registry, place: Path, options: ServeOptions) -> Watcher:
    """Return the watcher of a directory or URL of bundles.

    Args:
        registry: where the models go.
        place: directory or URL.
        options: the options of the server.

    Raises:
        ConfigError: a URL is watched, and there is no cache directory.
    """
    url = as_url(place)
    if url is None:
        return Watcher(registry, place)
    cache = options.cache_dir or default_cache()
    if cache is None:
        raise ConfigError(f"{url} needs a cache directory, and the user has no home. Set --cache-dir.")
    request = EngineRequest(options.provider, options.precision)

    def fetch(bundle: str) -> Path:
        return local_bundle(Path(bundle), request, cache=cache, trust=options.trust)

    folder = watch_folder(cache, f"{url} {options.provider} {options.precision}")
    return Watcher(registry, folder, RemoteModels(url, folder, fetch))


async def fetched_bundle(options: ServeOptions, place: Path, *, with_all_graphs: bool = False) -> Path:
    """Return the folder of a bundle of the options. A URL is fetched first.

    Args:
        options: the options of the server.
        place: directory or URL.
        with_all_graphs: fetch graphs too that the options cannot choose.

    Raises:
        PalmServeError: as `local_bundle`.
    """
    request = EngineRequest(options.provider, options.precision)
    return await local_bundle_in_thread(
        place, None if with_all_graphs else request, cache=options.cache_dir, trust=options.trust
    )

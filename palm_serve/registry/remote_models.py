"""A folder of links to fetched bundles, kept in line with a URL of bundles. `Watcher` watches the folder."""

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

from palm_serve.bundle.files import MANIFEST
from palm_serve.bundle.loader import split_pin
from palm_serve.errors import BundleError, StorageError, StorageUnreachable
from palm_serve.registry.model_directory import TRAFFIC
from palm_serve.registry.versions import STABLE
from palm_serve.storage.remote_folder import RemoteFile, RemoteFolder

_TRAFFIC_BYTES = 1 << 16
_NEW = ".new"

Facts = tuple[tuple[str, RemoteFile], ...]
"""Names and facts of the files of one bundle. They differ when the bundle does."""


class RemoteModels:
    """The bundles below a URL, laid out as in `model_directory.py`.

    Args:
        url: the URL.
        folder: the folder of links. It is kept over restarts, so that a server starts where nobody answers.
        fetch: fetches the bundle of a URL and returns its folder.
    """

    def __init__(self, url: str, folder: Path, fetch: Callable[[str], Path]) -> None:
        self.url = url.rstrip("/")
        self.folder = folder
        self._fetch = fetch
        self._remote: RemoteFolder | None = None
        self._tried: dict[str, Facts] = {}
        """Facts of each bundle, and of each file of shares, at the last attempt."""
        self._faults: dict[tuple[str, str], str] = {}

    def refresh(self, retry: bool = False) -> Mapping[tuple[str, str], str]:
        """Fetch what has changed, and return the bundles that cannot be fetched by name and label, with the reason.

        Links of such bundles stay as they were.

        Args:
            retry: try again what failed before and has not changed.

        Raises:
            StorageError: the URL cannot be listed, or holds no bundle.
            OSError: the folder cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._remote = self._remote or RemoteFolder(self.url)
        bundles, shares = _arrange(self._remote.files())
        if not bundles:
            raise StorageError(
                f"{self.url} must hold NAME/{MANIFEST} or NAME/LABEL/{MANIFEST}, got neither. Push a bundle to it."
            )
        self._remove_others({*bundles, *(f"{name}/{TRAFFIC}" for name in shares)})
        for place, facts in bundles.items():
            key = _name_and_label(place)
            is_done = self._tried.get(place) == facts and not (retry and key in self._faults)
            if is_done and (key in self._faults or os.path.lexists(self.folder / place)):
                continue
            self._tried[place] = facts
            self._faults.pop(key, None)
            try:
                self._link(place)
            except StorageUnreachable as error:
                del self._tried[place]
                self._faults[key] = str(error)
            except (BundleError, StorageError) as error:
                self._faults[key] = str(error)
        for name, file in shares.items():
            self._copy_shares(self._remote, name, file)
        return dict(self._faults)

    def _link(self, place: str) -> None:
        """Let the link of a bundle lead to what its URL has now. Raises BundleError or StorageError."""
        target, _ = split_pin(self._fetch(f"{self.url}/{place}"))
        link = self.folder / place
        link.parent.mkdir(exist_ok=True)
        beside = link.with_name(f".{link.name}{_NEW}")
        beside.unlink(missing_ok=True)
        beside.symlink_to(target.absolute(), target_is_directory=True)
        os.replace(beside, link)

    def _copy_shares(self, remote: RemoteFolder, name: str, file: RemoteFile) -> None:
        place = f"{name}/{TRAFFIC}"
        target = self.folder / place
        facts = ((place, file),)
        if self._tried.get(place) == facts and target.exists():
            return
        try:
            content = remote.read(place, _TRAFFIC_BYTES)
        except StorageError as error:
            self._faults[name, TRAFFIC] = str(error)
            return
        self._faults.pop((name, TRAFFIC), None)
        target.parent.mkdir(exist_ok=True)
        beside = target.with_name(f".{TRAFFIC}{_NEW}")
        beside.write_bytes(content)
        os.replace(beside, target)
        self._tried[place] = facts

    def _remove_others(self, places: set[str]) -> None:
        """Remove links and files of shares that the URL does not have any more."""
        names = {place.partition("/")[0] for place in places}
        for path in self.folder.iterdir():
            if path.is_symlink() and path.name not in places:
                path.unlink()
            elif path.is_dir() and not path.is_symlink():
                if path.name not in names or path.name in places:
                    shutil.rmtree(path)
                    continue
                for inner in path.iterdir():
                    if f"{path.name}/{inner.name}" not in places:
                        inner.unlink()
        for place in self._tried.keys() - places:
            del self._tried[place]
            self._faults.pop(_name_and_label(place), None)


def _arrange(files: Mapping[str, RemoteFile]) -> tuple[dict[str, Facts], dict[str, RemoteFile]]:
    """Return the bundles by place, NAME or NAME/LABEL, and the files of shares by name."""
    places = []
    shares = {}
    for file_name, file in files.items():
        steps = PurePosixPath(file_name).parts
        if any(step.startswith(".") for step in steps):
            continue
        if steps[-1] == MANIFEST and len(steps) in (2, 3):
            places.append("/".join(steps[:-1]))
        elif steps[-1] == TRAFFIC and len(steps) == 2:
            shares[steps[0]] = file
    bundles = {}
    for place in places:
        if "/" in place and place.partition("/")[0] in places:
            continue  # a file of the bundle NAME
        inner = [(name, file) for name, file in files.items() if name.startswith(f"{place}/")]
        bundles[place] = tuple(inner)
    labelled = {place.partition("/")[0] for place in bundles if "/" in place}
    return bundles, {name: file for name, file in shares.items() if name in labelled}


def _name_and_label(place: str) -> tuple[str, str]:
    name, _, label = place.partition("/")
    return name, label or STABLE


def watch_folder(cache: Path, key: str) -> Path:
    """Return the folder of links for a URL and the options that choose its graphs.

    Args:
        cache: directory of the cache.
        key: names the URL and the options.
    """
    return cache / "watched" / hashlib.sha256(key.encode()).hexdigest()

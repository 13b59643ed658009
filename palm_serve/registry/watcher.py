"""Watcher: keeps the models in service in line with a directory of bundles."""

import asyncio
import logging
from dataclasses import dataclass, field
from pathlib import Path

from palm_serve.config.names import normalized_name
from palm_serve.errors import BundleError, EngineError, NotFound, PalmServeError, StorageError, Unavailable
from palm_serve.registry.loaded_model import LoadedModel
from palm_serve.registry.model_directory import (
    ABSENT,
    TRAFFIC,
    BundleEntry,
    DirectoryListing,
    ModelListing,
    Signature,
    find_model,
    list_models,
    read_entry,
    read_traffic,
    stable_label,
)
from palm_serve.registry.registry import LoadFailure, Registry
from palm_serve.registry.remote_models import RemoteModels
from palm_serve.registry.versions import STABLE, TrafficShares
from palm_serve.storage.patience import in_daemon_thread
from palm_serve.system.plain_text import os_message

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _LabelState:
    """State of one label: the files that were tried last, and the version in service."""

    tried: Signature = ()
    model: LoadedModel | None = None


@dataclass(slots=True)
class _NameState:
    """State of one name of the directory."""

    labels: dict[str, _LabelState] = field(default_factory=dict)
    stable: LoadedModel | None = None
    """Stays in service until another version replaces it or the name is gone."""
    traffic: TrafficShares | None = None
    tried_traffic: Signature = ()
    listing: ModelListing | None = None
    """Listing at the last poll. Files that still change are not loaded."""
    faults: dict[str, str] = field(default_factory=dict)
    """Reasons why labels are there and cannot be read, as they were told."""

    def opened_models(self) -> dict[str, LoadedModel]:
        """Return the opened versions by label."""
        models = {}
        for label, state in self.labels.items():
            if state.model is not None:
                models[label] = state.model
        return models


class Watcher:
    """Loads bundles that appear in a directory, swaps those that change, and retires those that are gone.

    A new version is verified, warmed up and checked before a label is moved to it. The version that it replaces is closed
    when its last request is answered. A bundle that cannot be loaded changes nothing: the error is logged and stands in
    `registry.failures`, and the bundle is tried again when its files change.

    Only what is absent is gone. What is there and cannot be read or followed (a link whose target is away, a directory without
    permission, an empty directory) leaves its versions in service and is a failure, like a bundle that cannot be loaded. An
    empty `directory` counts as one that cannot be read, because that is how an unmounted volume looks.

    Args:
        registry: where the models go. The names of the directory belong to it: versions of the same name that came from
            elsewhere are retired.
        directory: laid out as in `model_directory.py`.
        remote: keeps the directory in line with a URL, which is watched then. None: the directory itself is.
    """

    def __init__(self, registry: Registry, directory: Path, remote: RemoteModels | None = None) -> None:
        self._registry = registry
        self._directory = directory
        self._remote = remote
        self._watched = str(directory) if remote is None else remote.url
        """What is watched, for messages."""
        self._not_fetched: dict[tuple[str, str], str] = {}
        """Bundles of the URL that cannot be fetched, as they were told."""
        self._fetch_error: StorageError | None = None
        """Why the URL could not be followed at the last poll."""
        self._names: dict[str, _NameState] = {}
        self._polling = asyncio.Lock()
        self._misnamed: dict[tuple[str, str], str] = {}
        """Bundles that cannot be served under the name or label of their directory, as they were told."""

    async def start(self) -> list[LoadedModel]:
        """Load everything that is there now, and return it.

        Raises:
            BundleError: there is no such directory.
            StorageError: nobody answers for the URL, and nothing of it was fetched before.
        """
        if self._remote is not None:
            await self._refresh(self._remote)
            if self._fetch_error is not None and not list_models(self._directory).models:
                raise self._fetch_error
        if not self._directory.is_dir():
            raise BundleError(
                f"{self._directory} cannot be watched: no such directory; make it, bundles may come later"
            )
        await self.poll(settled=True)
        return [model for model in self._registry.list() if model.name in self._names]

    async def run(self, interval_s: float) -> None:
        """Poll for changes until cancelled."""
        while True:
            await asyncio.sleep(interval_s)
            try:
                await self.poll(settled=False)
            except Exception:
                log.exception("polling %s failed; the next poll is in %g s", self._watched, interval_s)

    async def load(self, name: str) -> LoadedModel:
        """Bring one name in line with the directory, including bundles that failed before, and return its stable version.

        Raises:
            NotFound: the directory has no such name.
            BundleError: a bundle must not be served.
            EngineError: no engine can run a bundle.
        """
        async with self._polling:
            if self._remote is not None:
                await self._refresh(self._remote, retry=True)
            listing = await asyncio.to_thread(_find_model, self._directory, name)
            name = normalized_name(name)
            if not listing.entries and (listing.is_file or not listing.fault):
                raise NotFound(f"no bundle '{name}' in the server's model folder")
            name_state = self._names.setdefault(name, _NameState())
            self._forget_closed(name_state)
            for label, label_state in name_state.labels.items():
                if label_state.model is None or (name, label) in self._registry.failures:
                    label_state.tried = ()
            name_state.tried_traffic = ()
            await self._update(name, listing, settled=True)
        for (failed_name, _), failure in self._registry.failures.items():
            if failed_name == name:
                raise failure.error
        return self._registry.get(name)

    async def poll(self, settled: bool = False) -> None:
        """Bring all names in line with the directory.

        Args:
            settled: take files as they are. Otherwise only those that have not changed since the last poll.
        """
        async with self._polling:
            if self._remote is not None:
                await self._refresh(self._remote)
            try:
                listings = await asyncio.to_thread(list_models, self._directory)
            except OSError as error:
                self._directory_failed(f"cannot be read: {error.strerror}")
                return
            if listings.is_empty and self._serves_any():
                self._directory_failed("is empty (not mounted?)")
                return
            if self._fetch_error is None:
                self._registry.watch_failure = ""
            self._report_misnamed(listings)
            for name in {**listings.models, **self._names}:
                listing = listings.models.get(name, ABSENT)
                if listing.is_file and name not in self._names:
                    continue
                self._names.setdefault(name, _NameState())
                await self._update(name, listing, settled)

    async def _refresh(self, remote: RemoteModels, retry: bool = False) -> None:
        """Fetch what has changed below the URL. What cannot be fetched stays as it was, and is a failure."""
        try:
            not_fetched = await asyncio.wrap_future(in_daemon_thread(lambda: remote.refresh(retry)))
        except (StorageError, OSError) as error:
            self._fetch_error = error if isinstance(error, StorageError) else StorageError(os_message(error))
            self._directory_failed(f"cannot be followed: {self._fetch_error}")
            return
        self._fetch_error = None
        for key in self._not_fetched.keys() - not_fetched.keys():
            self._registry.failures.pop(key, None)
        for key, reason in not_fetched.items():
            if self._not_fetched.get(key) != reason:
                self._record_failure(*key, BundleError(reason))
        self._not_fetched = dict(not_fetched)

    def _serves_any(self) -> bool:
        """Return True if a model of the directory is in service."""
        in_service = self._registry.list()
        return not set(map(_stable, self._names.values())).isdisjoint(in_service)

    def _directory_failed(self, reason: str) -> None:
        """Leave everything in service, because the directory cannot be read."""
        if reason != self._registry.watch_failure:
            log.error("%s %s; what is in service stays", self._watched, reason)
        self._registry.watch_failure = reason

    def _report_misnamed(self, listings: DirectoryListing) -> None:
        """Report bundles that cannot be served because of their names, once."""
        misnamed = {}
        for name, reason in listings.misnamed.items():
            misnamed[name, STABLE] = reason
        for name, listing in listings.models.items():
            for label, reason in listing.misnamed.items():
                misnamed[name, label] = reason
        for key in self._misnamed.keys() - misnamed.keys():
            self._registry.failures.pop(key, None)
        for key, reason in misnamed.items():
            if self._misnamed.get(key) != reason:
                self._registry.failures[key] = LoadFailure(*key, BundleError(reason))
                log.error("%s", reason)
        self._misnamed = misnamed

    def _forget_closed(self, name_state: _NameState) -> None:
        """Forget versions that were unloaded by other means. They come back when their files change."""
        in_service = self._registry.list()
        for label_state in name_state.labels.values():
            if label_state.model not in in_service:
                label_state.model = None
        if name_state.stable not in in_service:
            name_state.stable = None

    async def _update(self, name: str, listing: ModelListing, settled: bool) -> None:
        """Bring one name in line with its listing."""
        name_state = self._names[name]
        last_listing = name_state.listing
        name_state.listing = listing
        if not settled and listing != last_listing:
            return
        self._forget_closed(name_state)
        self._report_faults(name, name_state, listing)
        if listing.fault:
            return
        for label, entry in listing.entries.items():
            label_state = name_state.labels.setdefault(label, _LabelState())
            if entry.complete and entry.signature != label_state.tried:
                await self._open(name, label, name_state, entry)
        for label in name_state.labels.keys() - listing.entries.keys():
            del name_state.labels[label]
            self._registry.failures.pop((name, label), None)
        self._update_traffic(name, name_state, listing)
        self._assign_labels(name, name_state, listing)
        if not listing.present:
            del self._names[name]

    def _report_faults(self, name: str, name_state: _NameState, listing: ModelListing) -> None:
        """Report what is there and cannot be read, once. Its versions stay in service."""
        faults = {}
        if listing.fault and (name_state.stable is not None or not listing.is_empty):
            faults[STABLE] = listing.fault
        for label, entry in listing.entries.items():
            if entry.fault:
                faults[label] = entry.fault
        for label in name_state.faults.keys() - faults.keys():
            self._registry.failures.pop((name, label), None)
            if label in name_state.labels and name_state.labels[label].model is None:
                name_state.labels[label].tried = ()
        for label, reason in faults.items():
            if name_state.faults.get(label) != reason:
                self._record_failure(name, label, BundleError(reason))
        name_state.faults = faults

    async def _open(self, name: str, label: str, name_state: _NameState, entry: BundleEntry) -> None:
        """Open one bundle for a label. If that fails, the label keeps its version."""
        label_state = name_state.labels[label]
        label_state.tried = entry.signature
        try:
            label_state.model = await self._open_unchanged(name, label_state, name_state, entry)
        except (BundleError, EngineError) as error:
            self._record_failure(name, label, error)
        except Unavailable:  # the server is shutting down
            raise
        except Exception as error:
            log.exception("%s/%s could not be loaded", name, label)
            message = f"{entry.path} cannot be loaded: {type(error).__name__}: {error}"
            self._record_failure(name, label, EngineError(message))
        else:
            self._registry.failures.pop((name, label), None)

    async def _open_unchanged(
        self, name: str, label_state: _LabelState, name_state: _NameState, entry: BundleEntry
    ) -> LoadedModel:
        """Open one bundle. Raise BundleError if its files changed in the meantime; then they are tried again."""
        opened_models = list(name_state.opened_models().values())
        model = await self._registry.open(entry.path, name, opened_models)
        if await asyncio.to_thread(_has_changed, entry):
            label_state.tried = ()
            if model not in opened_models and model not in self._registry.list():
                await model.close()
            raise BundleError(f"{entry.path} changed while it was loaded")
        return model

    def _update_traffic(self, name: str, name_state: _NameState, listing: ModelListing) -> None:
        """Read the file of traffic shares if it has changed."""
        if listing.traffic is None:
            name_state.traffic = self._registry.default_traffic(name)
            name_state.tried_traffic = ()
        else:
            file, signature = listing.traffic
            if signature == name_state.tried_traffic:
                return
            name_state.tried_traffic = signature
            try:
                name_state.traffic = read_traffic(file)
            except BundleError as error:
                self._record_failure(name, TRAFFIC, error)
                return
        self._registry.failures.pop((name, TRAFFIC), None)

    def _record_failure(self, name: str, label: str, error: PalmServeError) -> None:
        # A copy, because the original refers to every frame that it passed.
        self._registry.failures[name, label] = LoadFailure(name, label, type(error)(str(error)))
        log.error("%s/%s is left as it was, and tried again when its files change: %s", name, label, error)

    def _assign_labels(self, name: str, name_state: _NameState, listing: ModelListing) -> None:
        """Assign all labels of a name at once, then retire versions that have none."""
        labels = name_state.opened_models()
        label = stable_label(labels)
        if label is not None:
            labels[STABLE] = labels[label]
        elif listing.present and name_state.stable is not None:
            labels[STABLE] = name_state.stable
        elif labels:  # nothing but a canary or a shadow
            labels[STABLE] = next(iter(labels.values()))
        served = [model for model in self._registry.list() if model.name == name]
        if served and not listing.present:
            log.warning("%s is gone from %s and is taken out of service", name, self._watched)
        if labels:
            self._registry.assign(name, labels, traffic=name_state.traffic)
        if labels or name_state.stable is not None:
            for model in served:
                if model not in labels.values():
                    self._registry.retire(model)
        name_state.stable = labels.get(STABLE)


def _stable(name_state: _NameState) -> LoadedModel | None:
    return name_state.stable


def _find_model(directory: Path, name: str) -> ModelListing:
    try:
        return find_model(directory, name)
    except OSError:
        return ABSENT


def _has_changed(entry: BundleEntry) -> bool:
    return read_entry(entry.path).signature != entry.signature

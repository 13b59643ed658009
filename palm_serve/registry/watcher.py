"""Keeps the models in service at what a directory of bundles holds."""

import asyncio
import logging
from dataclasses import dataclass, field
from pathlib import Path

from palm_serve.errors import BundleError, EngineError, NotFound, PalmServeError, Unavailable
from palm_serve.registry.loaded_model import LoadedModel
from palm_serve.registry.model_directory import (
    ABSENT,
    TRAFFIC,
    BundleEntry,
    ModelListing,
    Signature,
    read_entry,
    read_folder,
    read_name,
    read_traffic,
    stable_label,
)
from palm_serve.registry.registry import LoadFailure, Registry
from palm_serve.registry.versions import STABLE, TrafficShares

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Slot:
    """One label of a name: the files that were tried last, and the version that came of them, or of those before."""

    tried: Signature = ()
    model: LoadedModel | None = None


@dataclass(slots=True)
class _Watched:
    """One name of the directory."""

    slots: dict[str, _Slot] = field(default_factory=dict)
    stable: LoadedModel | None = None
    """Goes on until another takes its place or the name is gone."""
    traffic: TrafficShares | None = None
    shares_tried: Signature = ()
    seen: ModelListing | None = None
    """At the last look: what still changes is left alone."""


class Watcher:
    """Loads what appears in a directory, swaps what is replaced, takes out what is gone.

    A new version is verified, warmed up and checked before a label is moved to it, and the one that it replaces is closed when its last call is
    answered. What cannot be loaded changes nothing: it is logged, it stands in `registry.failures`, and it is tried again when its files change.

    Args:
        registry: where the models go. Names of the directory belong to it: versions that came from elsewhere go out when one of it comes.
        folder: laid out as `folder.py` tells.
    """

    def __init__(self, registry: Registry, folder: Path) -> None:
        self._registry = registry
        self._folder = folder
        self._watched: dict[str, _Watched] = {}
        self._looking = asyncio.Lock()
        self._unreadable = False

    async def start(self) -> list[LoadedModel]:
        """Loads all that is there now. Raises BundleError where there is no such directory."""
        if not self._folder.is_dir():
            raise BundleError(f"{self._folder} cannot be watched: no such directory; make it, bundles may come later")
        await self.look(settled=True)
        return [model for model in self._registry.list() if model.name in self._watched]

    async def run(self, interval_s: float) -> None:
        """Looks for changes, until it is cancelled."""
        while True:
            await asyncio.sleep(interval_s)
            try:
                await self.look(settled=False)
            except Exception:
                log.exception("looking at %s failed; the next look is in %g s", self._folder, interval_s)

    async def load(self, name: str) -> LoadedModel:
        """Brings one name to what the directory holds now, also what failed before, and returns its stable version.

        Raises NotFound where the directory has no such name, BundleError or EngineError where something of it cannot be loaded.
        """
        async with self._looking:
            listing = await asyncio.to_thread(_read_name, self._folder / name)
            if listing is None or not listing.entries:
                raise NotFound(f"no bundle '{name}' in the server's model folder")
            watched = self._watched.setdefault(name, _Watched())
            self._forget_closed(watched)
            for label, slot in watched.slots.items():
                if slot.model is None or (name, label) in self._registry.failures:
                    slot.tried = ()
            watched.shares_tried = ()
            await self._bring(name, listing, settled=True)
        failed = [failure for (owner, _), failure in self._registry.failures.items() if owner == name]
        if failed:
            raise failed[0].error
        return self._registry.get(name)

    async def look(self, settled: bool = False) -> None:
        """One look at the whole directory. `settled`: files are taken as they are; else only those that have not changed since the last look."""
        async with self._looking:
            try:
                listings = await asyncio.to_thread(read_folder, self._folder)
            except OSError as error:
                if isinstance(error, FileNotFoundError) and self._folder.is_dir():
                    return  # something vanished while it was read; the next look sees what became of it
                if not self._unreadable:
                    log.error("%s cannot be read: %s; what is in service stays", self._folder, error.strerror)
                self._unreadable = True
                return
            self._unreadable = False
            for name in {**listings, **self._watched}:
                self._watched.setdefault(name, _Watched())
                await self._bring(name, listings.get(name, ABSENT), settled)

    def _forget_closed(self, watched: _Watched) -> None:
        """What was unloaded otherwise comes back when its files change."""
        served = self._registry.list()
        for slot in watched.slots.values():
            slot.model = slot.model if slot.model in served else None
        watched.stable = watched.stable if watched.stable in served else None

    async def _bring(self, name: str, listing: ModelListing, settled: bool) -> None:
        """Brings one name to what the directory holds."""
        watched = self._watched[name]
        before, watched.seen = watched.seen, listing
        if not settled and listing != before:
            return
        self._forget_closed(watched)
        for label, entry in listing.entries.items():
            slot = watched.slots.setdefault(label, _Slot())
            if entry.complete and entry.signature != slot.tried:
                await self._try(name, label, watched, entry)
        for label in watched.slots.keys() - listing.entries.keys():
            del watched.slots[label]
            self._registry.failures.pop((name, label), None)
        self._read_shares(name, watched, listing)
        self._settle(name, watched, listing)
        if not listing.present:
            del self._watched[name]

    async def _try(self, name: str, label: str, watched: _Watched, entry: BundleEntry) -> None:
        """Opens one bundle; where that fails, the slot keeps its version."""
        slot = watched.slots[label]
        slot.tried = entry.signature
        opened = [other.model for other in watched.slots.values() if other.model is not None]
        try:
            model = await self._registry.open(entry.path, name, opened)
            if await asyncio.to_thread(_changed, entry):
                slot.tried = ()
                if model not in opened and model not in self._registry.list():
                    await model.close()
                raise BundleError(f"{entry.path} changed while it was loaded")
        except (BundleError, EngineError) as error:
            self._fail(name, label, error)
            return
        except Unavailable:  # the server is shutting down
            raise
        except Exception as error:
            log.exception("%s/%s could not be loaded", name, label)
            self._fail(name, label, EngineError(f"{entry.path} cannot be loaded: {type(error).__name__}: {error}"))
            return
        self._registry.failures.pop((name, label), None)
        slot.model = model

    def _read_shares(self, name: str, watched: _Watched, listing: ModelListing) -> None:
        if listing.traffic is None:
            watched.traffic, watched.shares_tried = self._registry.default_traffic(name), ()
        elif listing.traffic[1] != watched.shares_tried:
            file, watched.shares_tried = listing.traffic
            try:
                watched.traffic = read_traffic(file)
            except BundleError as error:
                self._fail(name, TRAFFIC, error)
                return
        else:
            return
        self._registry.failures.pop((name, TRAFFIC), None)

    def _fail(self, name: str, label: str, error: PalmServeError) -> None:
        # A copy: the original holds every frame that it came through.
        self._registry.failures[name, label] = LoadFailure(name, label, type(error)(str(error)))
        log.error("%s/%s is left as it was, and tried again when its files change: %s", name, label, error)

    def _settle(self, name: str, watched: _Watched, listing: ModelListing) -> None:
        """Labels as the directory has them, all at once; then out with what none of them means."""
        labels = {label: slot.model for label, slot in watched.slots.items() if slot.model is not None}
        chosen = stable_label(labels)
        if chosen is not None:
            labels[STABLE] = labels[chosen]
        elif listing.present and watched.stable is not None:
            labels[STABLE] = watched.stable
        elif labels:  # nothing but a canary or a shadow
            labels[STABLE] = next(iter(labels.values()))
        old = [model for model in self._registry.list() if model.name == name and model not in labels.values()]
        if labels:
            self._registry.assign(name, labels, traffic=watched.traffic)
        if labels or watched.stable is not None:
            for model in old:
                self._registry.retire(model)
        watched.stable = labels.get(STABLE)


def _read_name(path: Path) -> ModelListing | None:
    try:
        return read_name(path)
    except OSError:
        return None


def _changed(entry: BundleEntry) -> bool:
    try:
        return read_entry(entry.path).signature != entry.signature
    except OSError:
        return True

"""Registry of loaded models: loads bundles with all checks, finds them by name, version and label, and takes them out of service."""

import asyncio
import ctypes
import functools
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from palm_serve.batching import (
    RUN_LIMIT_S,
    BatchLimits,
    ClientWeight,
    EngineLatency,
    EngineThread,
    Observer,
    equal_weight,
)
from palm_serve.engine.providers import AUTO
from palm_serve.errors import BundleError, NotFound, PalmServeError, Unavailable
from palm_serve.pipeline import Pipeline
from palm_serve.registry.answer_cache import AnswerCache
from palm_serve.registry.bundle_opener import LOAD_LIMIT_S, BundleOpener, EngineChoice, LoadRules
from palm_serve.registry.loaded_model import LoadedModel
from palm_serve.registry.statistics import ModelStatistics
from palm_serve.registry.versions import CANARY, SHADOW, STABLE, ModelVersions, TrafficShares

log = logging.getLogger(__name__)

_RETIRED_STATISTICS = 16
"""Versions out of service whose statistics are kept."""


@dataclass(frozen=True, slots=True)
class LoadFailure:
    """A bundle that could not be loaded. `error` names files of this machine, so clients must not see it."""

    name: str
    label: str
    error: PalmServeError


class Registry:
    """The models of a server.

    Args:
        provider: execution provider, see `proof.selection.EngineRequest`.
        precision: precision of the computation, see `proof.selection.EngineRequest`.
        threads: threads of one engine run. None: one for each usable physical core.
        cache: directory for measured times and compiled engines. None: the user's cache directory.
        limits: limits of batches and queues, for each model.
        make_observer: makes the observer of a version from its name and digest.
        default_traffic: returns the traffic shares of a model from its name.
        make_answer_cache: makes the answer cache of a version. It may return None: no cache.
        nice: by how much to raise the niceness of engine threads, and of the thread that loads bundles.
        load_limit_s: seconds in which a bundle must be ready.
        run_limit_s: seconds after which a run of an engine is stopped.
        on_hung: called in another thread when a run cannot be stopped.
        client_weight: returns the weight of a client by its name.
        trials: try bundles in a process of their own before this process opens them.
        trust: folder of public keys. Only bundles that one of them signed are loaded. None: signatures do not count.
        allow_unproven: load bundles without golden examples too.
    """

    def __init__(
        self,
        provider: str = AUTO,
        precision: str = AUTO,
        threads: int | None = None,
        cache: Path | None = None,
        limits: BatchLimits | None = None,
        make_observer: Callable[[str, str], Observer] | None = None,
        default_traffic: Callable[[str], TrafficShares] = lambda name: TrafficShares(),
        make_answer_cache: Callable[[ModelStatistics], AnswerCache | None] = lambda statistics: None,
        nice: int = 0,
        load_limit_s: float = LOAD_LIMIT_S,
        run_limit_s: float = RUN_LIMIT_S,
        on_hung: Callable[[], object] = lambda: None,
        client_weight: ClientWeight = equal_weight,
        trials: bool = False,
        trust: Path | None = None,
        allow_unproven: bool = False,
    ) -> None:
        self._limits = limits or BatchLimits()
        self._make_observer = make_observer
        self._default_traffic = default_traffic
        self._make_answer_cache = make_answer_cache
        self._models: dict[str, ModelVersions] = {}
        self._engine_thread = EngineThread(
            nice=nice, run_limit_s=run_limit_s, on_hung=on_hung, client_weight=client_weight
        )
        choice = EngineChoice(provider, precision, threads, cache, nice)
        rules = LoadRules(trust, allow_unproven)
        self._opener = BundleOpener(choice, rules, load_limit_s, self._limits, self._engine_thread)
        self._trials = trials
        self._loading = asyncio.Lock()
        self._draining: set[asyncio.Task[None]] = set()
        self._closing = False
        self._statistics: dict[tuple[str, str], ModelStatistics] = {}
        self.failures: dict[tuple[str, str], LoadFailure] = {}
        """Last failure to load a bundle, by name and label."""
        self.watch_failure = ""
        """Reason why the watched directory cannot be read. Empty: it can."""
        self.loads: Counter[tuple[str, bool]] = Counter()
        """Bundles opened, by name and by whether that succeeded."""

    async def load(self, path: Path, *, name: str | None = None, label: str = "") -> LoadedModel:
        """Load the bundle at `path` and put it into service.

        For bundles without which a server does not start: there is no trial. The limits apply to this process.

        Args:
            path: directory of the bundle.
            name: name of the model in requests. None: that of the bundle.
            label: label of the version. The first version of a name also becomes "stable".

        Raises:
            BundleError: the bundle must not be served.
            EngineError: no engine can run the bundle.
            Unavailable: the registry is closing.
        """
        model = await self._open(path, name, (), in_trial=False)
        if model in self.list():
            raise BundleError(
                f"{path}: version {model.version[:12]} of '{model.name}' is loaded already; name each bundle once"
            )
        labels = {STABLE: model}
        if model.name in self._models:
            labels.update(self._models[model.name].labels)
        if label:
            labels[label] = model
        self.assign(model.name, labels, [model])
        return model

    async def open(self, path: Path, name: str | None = None, opened_models: Sequence[LoadedModel] = ()) -> LoadedModel:
        """Verify a bundle, open and warm up its engine, and compare its golden answers. `assign` puts it into service.

        A new version is tried in a process of its own before.

        Args:
            path: directory of the bundle.
            name: name of the model in requests. None: that of the bundle.
            opened_models: versions that are open but not in service.

        Returns:
            The version. If one with the same digest is in service or opened, that one.

        Raises:
            PalmServeError: the same errors as `load`.
        """
        return await self._open(path, name, opened_models, in_trial=self._trials)

    async def _open(
        self, path: Path, name: str | None, opened_models: Sequence[LoadedModel], in_trial: bool
    ) -> LoadedModel:
        async with self._loading:
            if self._closing:
                raise Unavailable("the server is shutting down; nothing is loaded any more")
            began = time.perf_counter()
            try:
                if in_trial:
                    await self._opener.try_bundle(path, [*self.list(), *opened_models])
                bundle = await self._opener.read(path)
                name = name or bundle.manifest.name
                open_model = _with_version([*self._versions(name), *opened_models], bundle.manifest.version)
                if open_model is not None:
                    await self._opener.verify(bundle)
                    return open_model
                latency = EngineLatency()
                pipeline = await self._opener.open(bundle, latency, beside_others=bool(self._models))
            except Exception:
                self.loads[name or path.name, False] += 1
                raise
            self.loads[name, True] += 1
            model = self._make_model(name, pipeline, latency)
        info = model.info
        seconds = time.perf_counter() - began
        log.info("loaded %s %s on %s in %s, %.2f s", name, model.version[:12], info.provider, info.precision, seconds)
        return model

    def _make_model(self, name: str, pipeline: Pipeline, latency: EngineLatency) -> LoadedModel:
        version = pipeline.bundle.manifest.version
        observer = self._make_observer(name, version) if self._make_observer else None
        statistics = self._statistics.setdefault((name, version), ModelStatistics())
        answer_cache = self._make_answer_cache(statistics)
        return LoadedModel(
            name, pipeline, self._engine_thread, self._limits, observer, latency, statistics, answer_cache
        )

    def default_traffic(self, name: str) -> TrafficShares:
        """Return the traffic shares of a name that has no file of its own."""
        return self._default_traffic(name)

    def assign(
        self,
        name: str,
        labels: Mapping[str, LoadedModel],
        versions: Sequence[LoadedModel] = (),
        traffic: TrafficShares | None = None,
    ) -> None:
        """Replace all labels of a name at once, and put their versions into service.

        Args:
            name: name of the model.
            labels: version of each label. One label is "stable".
            versions: further versions to put into service.
            traffic: new traffic shares. None: unchanged.
        """
        model_versions = self._models.setdefault(name, ModelVersions(name, self._default_traffic(name)))
        for model in (*labels.values(), *versions):
            if model not in model_versions.versions:
                model_versions.versions.append(model)
        if traffic is not None and traffic != model_versions.traffic:
            log.info("%s: canary gets %g, shadow %g of the requests", name, traffic.canary, traffic.shadow)
            model_versions.traffic = traffic
        for label, model in labels.items():
            if model_versions.labels.get(label) is not model:
                log.info("%s: %s is now %s", name, label, model.version[:12])
        model_versions.relabel(labels)
        model_versions.update_mirrors()

    def assign_start_labels(self, name: str) -> None:
        """Label the versions of a model that were given at the start.

        The first is stable. The second is the canary and the next the shadow, where these have a traffic share.
        """
        model_versions = self._models[name]
        labels = [STABLE]
        if model_versions.traffic.canary:
            labels.append(CANARY)
        if model_versions.traffic.shadow:
            labels.append(SHADOW)
        self.assign(name, dict(zip(labels, model_versions.versions, strict=False)))

    def get(self, name: str = "", version: str = "") -> LoadedModel:
        """Return the model with this name and version.

        Args:
            name: name of the model. Empty: the first that was loaded.
            version: a label, a digest, or an unambiguous prefix of one (8 characters or more). Empty: the stable version.

        Raises:
            NotFound: no model matches. The message lists the models in service.
        """
        return self._find_versions(name).find(version)

    def route(self, name: str, version: str, key: str) -> LoadedModel:
        """Return the model that answers a request.

        Args:
            name: name of the model, as in `get`.
            version: version of the model, as in `get`. Empty: the stable version, or the canary for its share.
            key: identifies the client or its session. The same key always gets the same version.

        Raises:
            NotFound: no model matches. The message lists the models in service.
        """
        model_versions = self._find_versions(name)
        return model_versions.find(version) if version else model_versions.route(key)

    def early_refusal(self, deadline: float | None, client: str) -> PalmServeError | None:
        """Return the error if any request of a client would be refused. None where several models or versions are in service.

        Args:
            deadline: time after which the answer is useless, in seconds. None: none.
            client: who asks.
        """
        models = self.list()
        return models[0].early_refusal(deadline, client) if len(models) == 1 else None

    def _find_versions(self, name: str) -> ModelVersions:
        if not self._models:
            raise NotFound("no model is loaded")
        name = name or next(iter(self._models))
        if name not in self._models:
            raise NotFound(f"no model '{name}'; loaded: {', '.join(self._models)}")
        return self._models[name]

    def _versions(self, name: str) -> list[LoadedModel]:
        return self._models[name].versions if name in self._models else []

    def list(self) -> list[LoadedModel]:
        """Return all versions in service, name by name. Safe from any thread."""
        models: list[LoadedModel] = []
        for model_versions in [*self._models.values()]:
            models.extend(model_versions.versions)
        return models

    def shares(self) -> dict[str, TrafficShares]:
        """Return the traffic shares of each name. Safe from any thread."""
        shares = {}
        for name, model_versions in {**self._models}.items():
            shares[name] = model_versions.traffic
        return shares

    def stable(self) -> dict[str, LoadedModel]:
        """Return the stable version of each name."""
        stable_versions = {}
        for name, model_versions in self._models.items():
            stable_versions[name] = model_versions.find()
        return stable_versions

    def statistics(self) -> dict[tuple[str, str], ModelStatistics]:
        """Return statistics by name and version, of versions in service and some that were retired.

        Safe from any thread.
        """
        return {**self._statistics}

    def retire(self, model: LoadedModel) -> "asyncio.Task[None]":
        """Take a version out of service, so that no new request finds it.

        Returns:
            A task that ends when all its requests are answered and its memory is free.
        """
        model_versions = self._models[model.name]
        model_versions.remove(model)
        model_versions.update_mirrors()
        if not model_versions.versions:
            del self._models[model.name]
        self._discard_statistics()
        task = asyncio.create_task(self._close(model))
        self._draining.add(task)
        task.add_done_callback(self._draining.discard)
        log.info("retired %s %s", model.name, model.version[:12])
        return task

    async def _close(self, model: LoadedModel) -> None:
        await model.close()
        del model
        await asyncio.to_thread(_trim_heap)

    def _discard_statistics(self) -> None:
        """Discard the statistics of the versions that have been out of service longest."""
        in_service = {(model.name, model.version) for model in self.list()}
        retired = [key for key in self._statistics if key not in in_service]
        for key in retired[:-_RETIRED_STATISTICS]:
            del self._statistics[key]

    async def unload(self, name: str, version: str = "") -> None:
        """Take a version out of service and finish its requests.

        If it was the stable one, the version of that name that was loaded last becomes stable.

        Raises:
            NotFound: no model matches.
        """
        await self.retire(self.get(name, version))

    @property
    def engine_busy_s(self) -> float:
        """Seconds in which the engine ran a batch so far, for all models together."""
        return self._engine_thread.busy_s

    @property
    def hung(self) -> bool:
        """True if a load was given up whose thread may go on for ever."""
        return self._opener.opening

    def interrupt(self) -> None:
        """Ask the engine's run in progress to end."""
        self._engine_thread.interrupt()
        self._opener.interrupt()

    async def close(self) -> None:
        """Refuse new requests of all models and finish those that were accepted."""
        self._closing = True
        async with self._loading:
            await asyncio.gather(*self._draining, *(model.close() for model in self.list()))
            await self._opener.close()


def _with_version(models: Iterable[LoadedModel], version: str) -> LoadedModel | None:
    for model in models:
        if model.version == version:
            return model
    return None


@functools.cache
def _malloc_trim() -> Callable[[int], object] | None:
    """Return `malloc_trim` of the C library, where there is one (glibc)."""
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    trim: Callable[[int], object] | None = getattr(library, "malloc_trim", None)
    return trim


def _trim_heap() -> None:
    """Return free memory to the system.

    An engine leaves holes in the heap of the thread that opened it. Without this, a server grows by some 50 KiB with
    every swap of a version.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)

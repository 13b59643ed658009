"""Loaded models and their versions: loading with all its checks, looking up by name, version and label, and taking out of service."""

import asyncio
import ctypes
import functools
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from palm_serve.batching import BatchLimits, EngineLatency, EngineThread, Observer
from palm_serve.batching.thread_priority import lower_thread_priority
from palm_serve.bundle.loader import Bundle, load_bundle
from palm_serve.engine.providers import AUTO, select_engine
from palm_serve.errors import BundleError, EngineError, InvalidRequest, NotFound, PalmServeError, Unavailable
from palm_serve.pipeline import Pipeline
from palm_serve.registry.answer_cache import AnswerCache
from palm_serve.registry.loaded_model import LoadedModel
from palm_serve.registry.statistics import ModelStatistics
from palm_serve.registry.versions import STABLE, ModelVersions, TrafficShares
from palm_serve.types import Prediction, Priority

R = TypeVar("R")

log = logging.getLogger(__name__)

_REMEMBERED = 16
"""Versions whose statistics are kept after they went out of service."""


_GENTLE_ROWS = 4
"""Of a golden check beside models in service: what a request may come to wait for it is the time of so many."""
_GENTLE_WARM_UP_S = 0.1


@functools.cache
def _malloc_trim() -> Callable[[int], object] | None:
    """The C library's, where it has it (glibc)."""
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    trim: Callable[[int], object] | None = getattr(library, "malloc_trim", None)
    return trim


def _give_back_memory() -> None:
    """An engine leaves holes in the heap of the thread that opened it; without this a server grows by some 50 KiB with every swap."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


def _run(pipeline: Pipeline, shape: tuple[int, int]) -> float:
    """Seconds that the engine was held."""
    began = time.perf_counter()
    pipeline.run_shape(*shape)
    return time.perf_counter() - began


@dataclass(frozen=True, slots=True)
class LoadFailure:
    """What should be in service and cannot be. `error` names files of this machine: not for clients."""

    name: str
    label: str
    error: PalmServeError


class Registry:
    """The models of a server.

    Args:
        provider, precision: what to run on, see `engine.providers.select_engine`.
        threads: of one engine run; None: one per usable physical core.
        cache: where engines keep what they measured and compiled; None: the user's cache.
        limits: of batches and queues, for each model.
        make_observer: makes the observer of a version from its name and digest.
        default_traffic: the shares of a model, by its name.
        make_answer_cache: makes the memory of a version.
        nice: by how much engines, and what loads them, give way to the other threads.
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
    ) -> None:
        self._select = functools.partial(
            select_engine, provider=provider, precision=precision, threads=threads, cache=cache, kept={}
        )
        self._limits = limits or BatchLimits()
        self._make_observer = make_observer
        self._default_traffic = default_traffic
        self._make_answer_cache = make_answer_cache
        self._families: dict[str, ModelVersions] = {}
        self._engine_thread = EngineThread(nice=nice)
        # An engine's own threads are as nice as the one that opens it.
        self._opener = ThreadPoolExecutor(1, "palm-open", initializer=lower_thread_priority, initargs=(nice,))
        self._loading = asyncio.Lock()
        self._draining: set[asyncio.Task[None]] = set()
        self._closing = False
        self._statistics: dict[tuple[str, str], ModelStatistics] = {}
        self.failures: dict[tuple[str, str], LoadFailure] = {}
        """What could not be loaded when it was tried last, by name and label."""
        self.loads: Counter[tuple[str, bool]] = Counter()
        """Name, and whether it succeeded -> bundles opened."""

    async def load(self, path: Path, *, name: str | None = None, label: str = "") -> LoadedModel:
        """Verifies the bundle at `path`, opens and warms it up, compares its golden answers, and puts it into service under the label.

        The first version of a name has the label "stable". Raises BundleError for a bundle that must not be served, EngineError where nothing can
        run it.
        """
        model = await self.open(path, name)
        if model in self.list():
            raise BundleError(
                f"{path}: version {model.version[:12]} of '{model.name}' is loaded already; name each bundle once"
            )
        labels = {label: model} if label else {}
        family = self._families.get(model.name)
        self.assign(model.name, {STABLE: model, **(family.labels if family else {}), **labels}, [model])
        return model

    async def open(self, path: Path, name: str | None = None, among: Sequence[LoadedModel] = ()) -> LoadedModel:
        """A version, verified, warmed up and checked, that `assign` can put into service; or the one of the same digest in service or `among` these.

        Raises as `load` does.
        """
        async with self._loading:
            if self._closing:
                raise Unavailable("the server is shutting down; nothing is loaded any more")
            began = time.perf_counter()
            try:
                bundle = await self._in_opener(load_bundle, path)
                name = name or bundle.manifest.name
                version = bundle.manifest.version
                served = next((m for m in (*self._versions(name), *among) if m.version == version), None)
                if served is not None:
                    return served
                pipeline = await self._in_opener(self._connect, bundle)
                timing = EngineLatency()
                if self._families:
                    await self._check_between(pipeline, timing)
                else:
                    await self._in_opener(self._check_alone, pipeline, timing)
            except Exception:
                self.loads[name or path.name, False] += 1
                raise
            self.loads[name, True] += 1
            observer = self._make_observer(name, version) if self._make_observer else None
            statistics = self._statistics.setdefault((name, version), ModelStatistics())
            answers = self._make_answer_cache(statistics)
            model = LoadedModel(
                name, pipeline, self._engine_thread, self._limits, observer, timing, statistics, answers
            )
        seconds, info = time.perf_counter() - began, model.info
        log.info("loaded %s %s on %s in %s, %.2f s", name, version[:12], info.provider, info.precision, seconds)
        return model

    async def _in_opener(self, work: Callable[..., R], *arguments: Any) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._opener, work, *arguments)

    def _connect(self, bundle: Bundle) -> Pipeline:
        return Pipeline(bundle, self._select(bundle))

    def _check_alone(self, pipeline: Pipeline, timing: EngineLatency) -> None:
        """Golden examples and warm-up, as quick as they go."""
        pipeline.golden_check()
        pipeline.warm_up(self._limits, observe=timing.run.observe)

    async def _check_between(self, pipeline: Pipeline, timing: EngineLatency) -> None:
        """Golden examples in small batches, and warm-up, between the batches of the models in service: two engines at once would fight for the cores."""
        manifest = pipeline.bundle.manifest
        model = LoadedModel(manifest.name, pipeline, self._engine_thread, self._limits, None, timing, ModelStatistics())
        outcomes: list[Prediction | PalmServeError] = []
        requests = [replace(request, priority=Priority.BATCH) for request in pipeline.golden_requests()]
        try:
            for start in range(0, len(requests), _GENTLE_ROWS):
                outcomes += await model.predict_many(requests[start : start + _GENTLE_ROWS])
            for outcome in outcomes:
                if isinstance(outcome, PalmServeError) and not isinstance(outcome, InvalidRequest):
                    raise EngineError(f"{pipeline.bundle.path} cannot be run: {outcome}")
            pipeline.golden_compare(outcomes)
            spent = 0.0
            for shape in pipeline.shapes(self._limits):
                if spent < _GENTLE_WARM_UP_S:
                    spent += await asyncio.wrap_future(
                        self._engine_thread.call(functools.partial(_run, pipeline, shape))
                    )
        finally:
            await model.close()

    def default_traffic(self, name: str) -> TrafficShares:
        """The shares of a name where nothing else is said."""
        return self._default_traffic(name)

    def assign(
        self,
        name: str,
        labels: Mapping[str, LoadedModel],
        versions: Sequence[LoadedModel] = (),
        traffic: TrafficShares | None = None,
    ) -> None:
        """From now on a name has these labels and no others, all at once; one of them is "stable".

        Versions that they mean, and `versions`, are put into service if they are not. `traffic`: new shares; None: as they were.
        """
        family = self._families.setdefault(name, ModelVersions(name, self._default_traffic(name)))
        for model in (*labels.values(), *versions):
            if model not in family.versions:
                family.versions.append(model)
        if traffic is not None and traffic != family.traffic:
            log.info("%s: canary gets %g, shadow %g of the requests", name, traffic.canary, traffic.shadow)
            family.traffic = traffic
        for label, model in labels.items():
            if family.labels.get(label) is not model:
                log.info("%s: %s is now %s", name, label, model.version[:12])
        family.relabel(labels)
        family.show_shadow()

    def _versions(self, name: str) -> list[LoadedModel]:
        family = self._families.get(name)
        return family.versions if family else []

    def get(self, name: str = "", version: str = "") -> LoadedModel:
        """The version that is meant. Raises NotFound, which lists what there is.

        Args:
            name: empty: the first that was loaded.
            version: empty: the label "stable"; else a digest, an unambiguous beginning of one (8 characters or more), or a label.
        """
        return self._family(name).find(version)

    def route(self, name: str, version: str, key: str) -> LoadedModel:
        """The version that answers a request; as `get`, but a share of those without a version goes to the canary, chosen by `key`."""
        family = self._family(name)
        return family.find(version) if version else family.route(key)

    def _family(self, name: str) -> ModelVersions:
        if not self._families:
            raise NotFound("no model is loaded")
        name = name or next(iter(self._families))
        if name not in self._families:
            raise NotFound(f"no model '{name}'; loaded: {', '.join(self._families)}")
        return self._families[name]

    def list(self) -> list[LoadedModel]:
        """All versions in service, name by name. From any thread."""
        return [model for family in [*self._families.values()] for model in [*family.versions]]

    def shares(self) -> dict[str, TrafficShares]:
        """The shares of each name. From any thread."""
        return {name: family.traffic for name, family in {**self._families}.items()}

    def stable(self) -> dict[str, LoadedModel]:
        """The stable version of each name."""
        return {name: family.find() for name, family in self._families.items()}

    def statistics(self) -> dict[tuple[str, str], ModelStatistics]:
        """Name and version -> what it did, also of some that went out of service. From any thread."""
        return {**self._statistics}

    def retire(self, model: LoadedModel) -> "asyncio.Task[None]":
        """Takes a version out of service: no new request finds it. The task ends when what it was asked is answered and its memory is free."""
        family = self._families[model.name]
        family.remove(model)
        family.show_shadow()
        if not family.versions:
            del self._families[model.name]
        self._forget()
        task = asyncio.create_task(self._close(model))
        self._draining.add(task)
        task.add_done_callback(self._draining.discard)
        log.info("retired %s %s", model.name, model.version[:12])
        return task

    async def _close(self, model: LoadedModel) -> None:
        await model.close()
        del model
        await asyncio.to_thread(_give_back_memory)

    def _forget(self) -> None:
        """Drops the statistics of what has been out of service longest."""
        served = {(model.name, model.version) for model in self.list()}
        gone = [key for key in self._statistics if key not in served]
        for key in gone[:-_REMEMBERED]:
            del self._statistics[key]

    async def unload(self, name: str, version: str = "") -> None:
        """Takes a version out of service and finishes what it was asked. Raises NotFound.

        Where it was the stable one, the version of that name that was loaded last becomes it.
        """
        await self.retire(self.get(name, version))

    async def close(self) -> None:
        """Drains all models: nothing new is taken, what was taken is finished."""
        self._closing = True
        async with self._loading:
            await asyncio.gather(*self._draining, *(model.close() for model in self.list()))
            self._opener.shutdown()

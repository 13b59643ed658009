"""Opens bundles: a trial in another process, then verification, engine, golden check and warm-up in this one."""

import asyncio
import functools
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from palm_serve.batching import BatchLimits, EngineLatency, EngineThread
from palm_serve.batching.thread_priority import lower_thread_priority
from palm_serve.bundle.loader import Bundle, load_bundle, stated_version
from palm_serve.engine.providers import AUTO
from palm_serve.errors import BundleError, EngineError, InvalidRequest, PalmServeError
from palm_serve.pipeline import Pipeline
from palm_serve.proof.selection import PROOF_BUDGET_S, EngineRequest, MachineFacts, select_proven_engine
from palm_serve.registry.loaded_model import LoadedModel
from palm_serve.registry.memory_limit import bundle_memory, limited_memory
from palm_serve.registry.statistics import ModelStatistics
from palm_serve.registry.trial import TrialProcess, TrialRequest, check_and_warm_up, took_too_long
from palm_serve.types import Prediction, Priority

R = TypeVar("R")

LOAD_LIMIT_S = 60.0
"""Seconds in which a bundle must be ready, unless an option says otherwise."""
_CHECK_ROWS = 4
"""Rows of a golden check while other models are in service. A request can come to wait for that many."""
_CHECK_WARM_UP_S = 0.1
_RUNS_OF_A_SHAPE = 2
"""Runs of each shape of the warm-up. The first one may compile."""
_LONGEST_PAUSE_S = 0.02
"""Time that the reading of a graph waits for the engine after each slice."""
_TICK_S = 0.001
_PAUSES_S = 2.0
"""Time that it waits in all."""
_KEPT_OUTCOMES = 64
"""Bundles whose outcomes are kept in memory. Every version that is swapped in has its own."""


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """Options of an engine, see `EngineRequest`, and the niceness of the threads that open and run engines."""

    provider: str
    precision: str
    threads: int | None
    cache: Path | None
    nice: int = 0
    variant: str = AUTO

    def open(self, bundle: Bundle, facts: MachineFacts | None = None, load_limit_s: float = LOAD_LIMIT_S) -> Pipeline:
        """Open the engine of a bundle. Its golden answers are not compared yet.

        Args:
            bundle: the bundle.
            facts: what is known of the machine, which grows.
            load_limit_s: seconds in which the bundle must be ready.

        Raises:
            BundleError: the bundle must not be served.
            EngineError: no engine can run the bundle.
        """
        return Pipeline(bundle, select_proven_engine(bundle, self.request(load_limit_s), facts or MachineFacts()))

    def request(self, load_limit_s: float) -> EngineRequest:
        """Return the request for an engine that must be ready within `load_limit_s` seconds."""
        budget_s = min(PROOF_BUDGET_S, load_limit_s / 3)
        return EngineRequest(self.provider, self.precision, self.threads, self.cache, budget_s, self.variant)


@dataclass(frozen=True, slots=True)
class LoadRules:
    """Rules for the bundles that may be loaded, see `bundle.loader.load_bundle`."""

    trust: Path | None = None
    allow_unproven: bool = False

    def load(self, path: Path, pause: Callable[[], object] | None = None) -> Bundle:
        """Load a bundle under these rules. Its graphs are verified when they are opened, with a pause after each slice."""
        return load_bundle(path, trust=self.trust, allow_unproven=self.allow_unproven, defer_graphs=True, pause=pause)


class _Pauses:
    """Waits while the engine works, a moment each time and some seconds in all.

    Args:
        engine_thread: runs the engines of the models in service.
    """

    def __init__(self, engine_thread: EngineThread) -> None:
        self.left_s = _PAUSES_S
        """Time that may still be spent. Zero: the bundle is open."""
        self._engine_thread = engine_thread

    def __call__(self) -> None:
        """Wait until the engine has nothing to do."""
        began = time.monotonic()
        end = began + min(_LONGEST_PAUSE_S, self.left_s)
        while not self._engine_thread.idle and time.monotonic() < end:
            time.sleep(_TICK_S)
        self.left_s -= time.monotonic() - began


class BundleOpener:
    """Opens one bundle at a time. No step takes longer than its limit.

    Args:
        choice: options of the engines.
        rules: which bundles may be loaded.
        load_limit_s: seconds of each step.
        limits: limits of batches.
        engine_thread: runs the engines of the models in service.
    """

    def __init__(
        self,
        choice: EngineChoice,
        rules: LoadRules,
        load_limit_s: float,
        limits: BatchLimits,
        engine_thread: EngineThread,
    ) -> None:
        self._choice = choice
        self._rules = rules
        self._load_limit_s = load_limit_s
        self._limits = limits
        self._engine_thread = engine_thread
        self._request = choice.request(load_limit_s)
        self._facts = MachineFacts()
        self._trials = TrialProcess()
        self._thread = self._start_thread()
        self.opening = False
        """True while the thread works. It stays True after a step that was cancelled, or took too long."""
        self._running: Pipeline | None = None
        """Pipeline whose engine the thread runs."""
        self._pauses = _Pauses(engine_thread)
        """Pauses of the bundle that is being opened."""

    async def try_bundle(self, path: Path, open_models: Iterable[LoadedModel]) -> None:
        """Try a bundle in a process of its own, unless its manifest names a version that is open.

        `read` compares all files with that version before anything of them is used.

        Args:
            path: directory of the bundle.
            open_models: versions that this process has opened.

        Raises:
            BundleError: the bundle must not be served.
            EngineError: no engine can run the bundle.
        """
        version = await self._in_thread(path, stated_version, path)
        for model in open_models:
            if model.version == version:
                return
        request = TrialRequest(
            path=path,
            trust=self._rules.trust,
            allow_unproven=self._rules.allow_unproven,
            provider=self._request.provider,
            precision=self._request.precision,
            threads=self._request.threads,
            cache=self._request.cache,
            budget_s=self._request.budget_s,
            nice=self._choice.nice,
            measured=self._facts.times,
        )
        result = await self._trials.try_bundle(request, self._load_limit_s)
        self._facts.times.update(result.measured)
        self._facts.missing.update(result.missing)
        self._facts.outcomes.update(result.outcomes)
        while len(self._facts.outcomes) > _KEPT_OUTCOMES:
            del self._facts.outcomes[next(iter(self._facts.outcomes))]

    async def read(self, path: Path) -> Bundle:
        """Read and verify a bundle, except for its graphs. Raises BundleError."""
        self._pauses = _Pauses(self._engine_thread)
        return await self._in_thread(path, self._rules.load, path, self._pauses)

    async def verify(self, bundle: Bundle) -> None:
        """Verify what `read` left out, for a bundle that is not opened. Raises BundleError."""
        await self._in_thread(bundle.path, bundle.verify)

    async def open(self, bundle: Bundle, latency: EngineLatency, beside_others: bool) -> Pipeline:
        """Open the engine of a bundle, compare its golden answers and warm it up.

        Args:
            bundle: the bundle.
            latency: learns from the warm-up.
            beside_others: the models in service share the engine's time, and keep their memory.

        Raises:
            BundleError: the bundle must not be served.
            EngineError: no engine can run the bundle.
        """
        if not beside_others:
            return await self._in_thread(bundle.path, self._open_alone, bundle, latency)
        pipeline = await self._in_thread(bundle.path, self._make_pipeline, bundle)
        self._pauses.left_s = 0.0  # the graph may be read again when an engine fails, and then nothing goes first
        await self._check_beside_others(pipeline, latency)
        return pipeline

    def interrupt(self) -> None:
        """Ask the run of an engine that is being opened to end."""
        pipeline = self._running
        if pipeline is not None:
            pipeline.interrupt()

    async def close(self) -> None:
        """End the process of trials, and the thread. One that was left to its work may never end."""
        await self._trials.close()
        self._thread.shutdown(wait=not self.opening)

    def _start_thread(self) -> ThreadPoolExecutor:
        # The threads of an engine inherit the niceness of the thread that opens it.
        return ThreadPoolExecutor(1, "palm-open", initializer=lower_thread_priority, initargs=(self._choice.nice,))

    async def _in_thread(self, path: Path, function: Callable[..., R], *arguments: Any) -> R:
        """Call a function in the thread that opens bundles. Raises BundleError if it takes too long."""
        self.opening = True
        future = asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)
        done, _ = await asyncio.wait((future,), timeout=self._load_limit_s)
        if not done:
            # No thread can be ended. It keeps its work, and another one takes its place.
            future.add_done_callback(_ignore_outcome)
            self._thread.shutdown(wait=False)
            self._thread = self._start_thread()
            self.interrupt()
            raise BundleError(took_too_long(path, self._load_limit_s))
        self.opening = False
        return future.result()

    def _make_pipeline(self, bundle: Bundle) -> Pipeline:
        return self._choice.open(bundle, self._facts, self._load_limit_s)

    def _open_alone(self, bundle: Bundle, latency: EngineLatency) -> Pipeline:
        """Open the first engine at full speed, in limited memory."""
        memory = bundle_memory(bundle.path)
        try:
            with limited_memory(memory):
                pipeline = self._make_pipeline(bundle)
                self._running = pipeline
                check_and_warm_up(pipeline, self._limits, latency.run.observe)
        except MemoryError:
            raise EngineError(f"{bundle.path} must load within {memory / 2**20:,.0f} MiB, and needs more") from None
        finally:
            self._running = None
        return pipeline

    async def _check_beside_others(self, pipeline: Pipeline, latency: EngineLatency) -> None:
        """Run the golden check and the warm-up between the batches of the models in service.

        Two engines at once would compete for the cores.
        """
        manifest = pipeline.bundle.manifest
        model = LoadedModel(
            manifest.name, pipeline, self._engine_thread, self._limits, None, latency, ModelStatistics()
        )
        outcomes: list[Prediction | PalmServeError] = []
        requests = [replace(request, priority=Priority.BATCH) for request in pipeline.golden_requests()]
        try:
            for start in range(0, len(requests), _CHECK_ROWS):
                outcomes += await model.predict_many(requests[start : start + _CHECK_ROWS])
            for outcome in outcomes:
                if isinstance(outcome, PalmServeError) and not isinstance(outcome, InvalidRequest):
                    raise EngineError(f"{pipeline.bundle.path} cannot be run: {outcome}")
            pipeline.golden_compare(outcomes)
            warm_up_s = 0.0
            for shape in pipeline.shapes(self._limits):
                if warm_up_s >= _CHECK_WARM_UP_S:
                    break
                for _ in range(_RUNS_OF_A_SHAPE):
                    # One run for each call, so that requests wait for no more than one.
                    run = self._engine_thread.call(functools.partial(pipeline.run_once, *shape), pipeline.interrupt)
                    warm_up_s += await asyncio.wrap_future(run)
        finally:
            await model.close()


def _ignore_outcome(future: "asyncio.Future[Any]") -> None:
    """Retrieve the error of work that nobody waits for, or asyncio would log it."""
    if not future.cancelled():
        future.exception()

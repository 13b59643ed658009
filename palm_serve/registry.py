"""Loaded models and their versions: loading with all its checks, looking up by name, version and label, and taking out of service."""

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from palm_serve.batching import BatchLimits, Lane, Observer, Scheduler, Timing
from palm_serve.bundle.loader import Bundle, load_bundle
from palm_serve.bundle.manifest import Manifest
from palm_serve.engine.providers import AUTO, select_session
from palm_serve.errors import BundleError, NotFound, PalmServeError, Unavailable
from palm_serve.pipeline import Computed, Pipeline, Work
from palm_serve.statistics import Statistics
from palm_serve.types import EngineInfo, Prediction, TextRequest

log = logging.getLogger(__name__)

STABLE = "stable"
"""The label that a request without a version means; the first version of a name has it."""

_SHORTEST_PREFIX = 8
_TOKENIZE_INLINE = 2000
"""Characters up to which tokenizing on the event loop costs less (< 0.5 ms) than handing over to a thread."""


class LoadedModel:
    """One version of a model in service, with its engine and queues. `name` is the bundle's own unless another was given."""

    def __init__(
        self,
        name: str,
        labels: tuple[str, ...],
        pipeline: Pipeline,
        lane: Lane,
        limits: BatchLimits,
        observer: Observer | None,
        timing: Timing,
    ) -> None:
        self.name = name
        self.labels = labels
        self.manifest: Manifest = pipeline.bundle.manifest
        self.version: str = self.manifest.version
        self.info: EngineInfo = pipeline.engine.info
        self.statistics = Statistics()
        self._pipeline = pipeline
        self._scheduler: Scheduler[Work, Computed, Prediction] = Scheduler(
            lane,
            pipeline.compute,
            self._decode,
            limits,
            observer,
            padded=pipeline.padded_tokens,
            timing=timing,
            probe=pipeline.probe,
            on_failure=self._engine_broke,
        )

    @property
    def ready(self) -> bool:
        """Whether requests are taken: in service, and the engine works."""
        return self._scheduler.healthy and not self._scheduler.closing

    async def predict(self, request: TextRequest) -> Prediction:
        """Answers one request. Raises InvalidRequest, Overloaded, DeadlineExceeded, Unavailable or EngineError."""
        with self._counting():
            # A refusal should cost no tokenization.
            self._scheduler.check(request.deadline, request.priority)
        if len(request.text) + len(request.pair or "") <= _TOKENIZE_INLINE:
            work = self._pipeline.prepare(request)
        else:
            work = await asyncio.to_thread(self._pipeline.prepare, request)
        return await self._submit(work)

    async def predict_many(self, requests: Sequence[TextRequest]) -> list[Prediction | PalmServeError]:
        """Answers many requests, in their order; one that fails becomes its error."""
        if not requests:
            return []
        prepared = await asyncio.to_thread(self._pipeline.prepare_many, requests)
        waiting = [self._submit(work) for work in prepared if isinstance(work, Work)]
        outcomes = iter(await asyncio.gather(*waiting, return_exceptions=True))
        answers: list[Prediction | PalmServeError] = []
        for work in prepared:
            outcome = next(outcomes) if isinstance(work, Work) else work
            if isinstance(outcome, BaseException) and not isinstance(outcome, PalmServeError):
                raise outcome
            answers.append(outcome)
        return answers

    async def _submit(self, work: Work) -> Prediction:
        with self._counting():
            return await self._scheduler.submit(work, work.tokens, work.request.deadline, work.request.priority)

    @contextmanager
    def _counting(self) -> Iterator[None]:
        began = time.perf_counter_ns()
        try:
            yield
        except PalmServeError:
            self.statistics.failed(time.perf_counter_ns() - began)
            raise

    def _decode(self, works: Sequence[Work], computed: Computed, waits_s: Sequence[float]) -> list[Prediction]:
        """One batch, in a thread of the lane."""
        predictions = self._pipeline.decode(works, computed, waits_s)
        self.statistics.ran(predictions)
        return predictions

    def _engine_broke(self, error: BaseException) -> None:
        log.error("model %s %s is out of service until its engine works: %s", self.name, self.version[:12], error)

    async def close(self) -> None:
        """Takes no more requests and returns when all that were taken are answered."""
        await self._scheduler.close()


class Registry:
    """The models of a server.

    Args:
        provider, precision: what to run on, see `engine.providers.select_session`.
        threads: of one engine run; None: one per usable physical core.
        limits: of batches and queues, for each model.
        observe: makes the observer of a model from its name.
    """

    def __init__(
        self,
        provider: str = AUTO,
        precision: str = AUTO,
        threads: int | None = None,
        limits: BatchLimits | None = None,
        observe: Callable[[str], Observer] | None = None,
    ) -> None:
        self._select = functools.partial(select_session, provider=provider, precision=precision, threads=threads)
        self._limits = limits or BatchLimits()
        self._observe = observe
        self._models: list[LoadedModel] = []
        self._lane = Lane()
        self._loading = asyncio.Lock()
        self._closing = False

    async def load(self, path: Path, *, name: str | None = None) -> LoadedModel:
        """Verifies the bundle at `path`, opens and warms it up, compares its golden answers, and puts it into service.

        Raises BundleError for a bundle that must not be served, EngineError where nothing can run it.
        """
        async with self._loading:
            if self._closing:
                raise Unavailable("the server is shutting down; nothing is loaded any more")
            pipeline, timing = await asyncio.to_thread(self._open, path)
            manifest = pipeline.bundle.manifest
            name = name or manifest.name
            siblings = [model for model in self._models if model.name == name]
            if any(model.version == manifest.version for model in siblings):
                raise BundleError(
                    f"{path}: version {manifest.version[:12]} of '{name}' is loaded already; name each bundle once"
                )
            labels = () if any(STABLE in model.labels for model in siblings) else (STABLE,)
            observer = self._observe(name) if self._observe else None
            model = LoadedModel(name, labels, pipeline, self._lane, self._limits, observer, timing)
            self._models.append(model)
            return model

    def _open(self, path: Path) -> tuple[Pipeline, Timing]:
        """All that loading takes; runs in a thread. What warming up tells of the engine's speed comes with it."""
        started = time.perf_counter()
        bundle: Bundle = load_bundle(path)
        pipeline = Pipeline(bundle, self._select(bundle))
        pipeline.golden_check()
        timing = Timing()
        pipeline.warm_up(self._limits, observe=timing.run.observe)
        info = pipeline.engine.info
        log.info(
            "loaded %s %s on %s in %s, %.2f s",
            bundle.manifest.name,
            bundle.manifest.version[:12],
            info.provider,
            info.precision,
            time.perf_counter() - started,
        )
        return pipeline, timing

    def get(self, name: str = "", version: str = "") -> LoadedModel:
        """The model that a request means. Raises NotFound, which lists what there is.

        Args:
            name: empty: the first that was loaded.
            version: empty: the label "stable"; else a digest, an unambiguous beginning of one (8 characters or more), or a label.
        """
        if not self._models:
            raise NotFound("no model is loaded")
        name = name or self._models[0].name
        versions = [model for model in self._models if model.name == name]
        if not versions:
            raise NotFound(
                f"no model '{name}'; loaded: {', '.join(dict.fromkeys(model.name for model in self._models))}"
            )
        wanted = version or STABLE
        found = [model for model in versions if wanted in model.labels or model.version == wanted]
        if not found and len(wanted) >= _SHORTEST_PREFIX:
            found = [model for model in versions if model.version.startswith(wanted)]
        if len(found) == 1:
            return found[0]
        what = "is ambiguous" if found else "is not loaded"
        have = ", ".join(f"{model.version[:12]} ({', '.join(model.labels) or 'no label'})" for model in versions)
        raise NotFound(f"version '{wanted}' of '{name}' {what}; loaded: {have}")

    def list(self) -> list[LoadedModel]:
        """All loaded versions, in the order of loading."""
        return [*self._models]

    async def unload(self, name: str, version: str = "") -> None:
        """Takes a version out of service and finishes what it was asked. Raises NotFound.

        Where it was the stable one, the version of that name that was loaded last becomes it.
        """
        async with self._loading:
            model = self.get(name, version)
            self._models.remove(model)
            siblings = [other for other in self._models if other.name == model.name]
            if STABLE in model.labels and siblings:
                siblings[-1].labels = (STABLE, *siblings[-1].labels)
        await model.close()

    async def close(self) -> None:
        """Drains all models: nothing new is taken, what was taken is finished."""
        self._closing = True
        async with self._loading:
            await asyncio.gather(*(model.close() for model in self._models))

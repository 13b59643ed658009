"""One version of a model in service."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from palm_serve.batching import BatchLimits, EngineLatency, EngineThread, Observer, Scheduler
from palm_serve.bundle.manifest import Manifest
from palm_serve.errors import PalmServeError
from palm_serve.pipeline import EngineOutputs, Pipeline, PreparedRequest
from palm_serve.registry.answer_cache import AnswerCache
from palm_serve.registry.statistics import ModelStatistics
from palm_serve.types import EngineInfo, Prediction, Priority, TextRequest

log = logging.getLogger(__name__)

Mirror = Callable[[TextRequest, Prediction, Mapping[str, str]], None]

_TOKENIZE_INLINE = 2000
"""Characters up to which tokenizing on the event loop costs less (< 0.5 ms) than handing over to a thread."""


class LoadedModel:
    """One version of a model, with its engine and queues.

    Whoever looks it up holds it, `with model:`, from then until the answer is there: replaced, it is closed when nobody holds it any more.

    Args:
        name: what requests call it; the bundle's own name unless another was given.
        statistics: where it counts; those of an earlier time of the same version, if there was one.
        answers: those that need no run; None: each needs one.
    """

    def __init__(
        self,
        name: str,
        pipeline: Pipeline,
        engine_thread: EngineThread,
        limits: BatchLimits,
        observer: Observer | None,
        timing: EngineLatency,
        statistics: ModelStatistics,
        answers: AnswerCache | None = None,
    ) -> None:
        self.name = name
        self.labels: tuple[str, ...] = ()
        self.manifest: Manifest = pipeline.bundle.manifest
        self.version: str = self.manifest.version
        self.statistics = statistics
        self.loaded_at = time.time()
        """Unix seconds."""
        self.mirror: Mirror | None = None
        """Is shown every request that was run, its answer, and the kind of each task."""
        self._kinds = {name: task.kind for name, task in self.manifest.tasks.items()}
        self._answers = answers
        self._pipeline = pipeline
        self._engine_thread = engine_thread
        self._holders = 0
        self._free = asyncio.Event()
        self._free.set()
        # What the scheduler holds must not hold this object: a cycle would keep the engine's memory until Python looks for cycles.
        self._scheduler: Scheduler[PreparedRequest, EngineOutputs, Prediction] = Scheduler(
            engine_thread,
            pipeline.compute,
            _decoder(pipeline, statistics),
            limits,
            observer,
            padded_tokens=pipeline.padded_tokens,
            latency=timing,
            probe=pipeline.probe,
            on_failure=_reporter(name, self.version),
        )

    def __enter__(self) -> "LoadedModel":
        self._holders += 1
        self._free.clear()
        return self

    def __exit__(self, *error: object) -> None:
        self._holders -= 1
        if not self._holders:
            self._free.set()

    @property
    def info(self) -> EngineInfo:
        """What runs it now: an engine whose provider fails goes on on another."""
        return self._pipeline.engine.info

    @property
    def ready(self) -> bool:
        """Whether requests are taken: in service, and the engine works."""
        return self._scheduler.healthy and not self._scheduler.closing

    @property
    def waiting(self) -> dict[Priority, tuple[int, int]]:
        """Requests that wait and their tokens, by priority. From any thread."""
        return self._scheduler.waiting

    @property
    def running(self) -> int:
        """Requests that the engine has taken and that are not answered yet. From any thread."""
        return self._scheduler.running

    @property
    def engine_idle(self) -> bool:
        """Whether the engine has nothing to do, for this model or another."""
        return self._engine_thread.idle

    async def predict(self, request: TextRequest) -> Prediction:
        """Answers one request. Raises InvalidRequest, Overloaded, DeadlineExceeded, Unavailable or EngineError."""
        known = self._answers.find(request) if self._answers is not None else None
        if known is not None:
            return known
        with _Failures(self.statistics):
            # A refusal should cost no tokenization.
            self._scheduler.check(request.deadline, request.priority)
        if len(request.text) + len(request.pair or "") <= _TOKENIZE_INLINE:
            work = self._pipeline.prepare(request)
        else:
            work = await asyncio.to_thread(self._pipeline.prepare, request)
        return await self._answer(work)

    async def predict_many(self, requests: Sequence[TextRequest]) -> list[Prediction | PalmServeError]:
        """Answers many requests, in their order; one that fails becomes its error."""
        if self._answers is not None:
            known = {i: answer for i, request in enumerate(requests) if (answer := self._answers.find(request))}
            rest = iter(await self._predict_many([request for i, request in enumerate(requests) if i not in known]))
            return [known[i] if i in known else next(rest) for i in range(len(requests))]
        return await self._predict_many(requests)

    async def _predict_many(self, requests: Sequence[TextRequest]) -> list[Prediction | PalmServeError]:
        if not requests:
            return []
        prepared = await asyncio.to_thread(self._pipeline.prepare_many, requests)
        waiting = [self._answer(work) for work in prepared if isinstance(work, PreparedRequest)]
        outcomes = iter(await asyncio.gather(*waiting, return_exceptions=True))
        answers: list[Prediction | PalmServeError] = []
        for work in prepared:
            outcome = next(outcomes) if isinstance(work, PreparedRequest) else work
            if isinstance(outcome, BaseException) and not isinstance(outcome, PalmServeError):
                raise outcome
            answers.append(outcome)
        return answers

    async def _answer(self, work: PreparedRequest) -> Prediction:
        with _Failures(self.statistics):
            if self._answers is None:
                return await self._submit(work)
            return await self._answers.ask(work.request, partial(self._submit, work))

    async def _submit(self, work: PreparedRequest) -> Prediction:
        request = work.request
        answer = await self._scheduler.submit(work, work.tokens, request.deadline, request.priority)
        if self.mirror is not None:
            self.mirror(request, answer, self._kinds)
        return answer

    async def close(self) -> None:
        """Returns when nobody holds it and all that was taken is answered; takes no more then."""
        await self._free.wait()
        await self._scheduler.close()


class _Failures:
    """Counts what a text fails with. A class, for it is entered twice a call and a generator would cost four times as much."""

    __slots__ = ("_began", "_statistics")

    def __init__(self, statistics: ModelStatistics) -> None:
        self._statistics = statistics

    def __enter__(self) -> None:
        self._began = time.perf_counter_ns()

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is not None and issubclass(kind, PalmServeError):
            self._statistics.failed(time.perf_counter_ns() - self._began)


def _decoder(
    pipeline: Pipeline, statistics: ModelStatistics
) -> Callable[[Sequence[PreparedRequest], EngineOutputs, Sequence[float]], list[Prediction]]:
    def decode(works: Sequence[PreparedRequest], computed: EngineOutputs, waits_s: Sequence[float]) -> list[Prediction]:
        predictions = pipeline.decode(works, computed, waits_s)
        statistics.ran(predictions)
        return predictions

    return decode


def _reporter(name: str, version: str) -> Callable[[BaseException], None]:
    def report(error: BaseException) -> None:
        log.error("model %s %s is out of service until its engine works: %s", name, version[:12], error)

    return report

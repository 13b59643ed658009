"""One version of a model in service."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from palm_serve.batching import BatchLimits, EngineLatency, EngineThread, Observer, Scheduler
from palm_serve.batching.patience import patience_s
from palm_serve.bundle.golden import example_texts
from palm_serve.bundle.manifest import Manifest
from palm_serve.errors import Overloaded, PalmServeError
from palm_serve.pipeline import EngineOutputs, Pipeline, PreparedRequest
from palm_serve.registry.answer_cache import AnswerCache
from palm_serve.registry.batch_feed import BatchFeed, RoomWaiters
from palm_serve.registry.statistics import ModelStatistics
from palm_serve.registry.text_preparation import TextPreparation
from palm_serve.types import EngineInfo, Prediction, Priority, TextRequest

log = logging.getLogger(__name__)

Mirror = Callable[[TextRequest, Prediction, Mapping[str, str]], None]

_TOKENIZE_INLINE = 2000
"""Characters up to which tokenizing on the event loop is cheaper (< 0.5 ms) than in another thread."""


class LoadedModel:
    """One version of a model, with its engine and queues.

    Callers use it as `with model:` from the moment they look it up until they have the answer. A version that was
    replaced is closed once no caller uses it.

    Args:
        name: name of the model in requests. By default that of the bundle.
        pipeline: bundle and engine of this version.
        engine_thread: runs the engine, together with those of other models.
        limits: limits of a batch and of the queues.
        observer: receives batches, and requests that are not run.
        latency: latency of the engine, where it is known already.
        statistics: counts requests. Those of an earlier time of the same version, if it was in service before.
        answer_cache: answers without a run of the engine. None: every request runs.
    """

    def __init__(
        self,
        name: str,
        pipeline: Pipeline,
        engine_thread: EngineThread,
        limits: BatchLimits,
        observer: Observer | None,
        latency: EngineLatency,
        statistics: ModelStatistics,
        answer_cache: AnswerCache | None = None,
    ) -> None:
        self.name = name
        self.labels: tuple[str, ...] = ()
        self.manifest: Manifest = pipeline.bundle.manifest
        self.version: str = self.manifest.version
        self.proven = pipeline.bundle.proven
        """True if its answers were compared with those of the export."""
        self.examples = example_texts(pipeline.bundle.golden)
        """Texts to try."""
        self.statistics = statistics
        self.loaded_at = time.time()
        """Unix time in seconds."""
        self.mirror: Mirror | None = None
        """Called with every request that was run, its answer and the kind of each task."""
        self._kinds = {name: task.kind for name, task in self.manifest.tasks.items()}
        self._answer_cache = answer_cache
        self._pipeline = pipeline
        if pipeline.values is not None:
            pipeline.values.failures = statistics.unresolved
        self._engine_thread = engine_thread
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()
        # The callbacks of the scheduler must not refer to this object. A reference cycle would keep the engine's memory
        # until the garbage collector looks for cycles.
        self._scheduler: Scheduler[PreparedRequest, EngineOutputs, Prediction] = Scheduler(
            engine_thread,
            pipeline.compute,
            _decoder(pipeline, statistics),
            limits,
            observer,
            padded_tokens=pipeline.padded_tokens,
            latency=latency,
            probe=pipeline.probe,
            on_failure=_failure_logger(name, self.version),
            interrupt=pipeline.interrupt,
        )
        refusal, self._count_refusal = _refusal_functions(self._scheduler, statistics)
        self._refusal = refusal
        self._waiters = RoomWaiters()
        self._preparation = TextPreparation(pipeline.prepare_many, refusal, self._count_refusal, limits.max_waiting)

    def __enter__(self) -> "LoadedModel":
        self._users += 1
        self._unused.clear()
        return self

    def __exit__(self, *error: object) -> None:
        self._users -= 1
        if not self._users:
            self._unused.set()

    @property
    def info(self) -> EngineInfo:
        """The engine that runs the model now. It changes when an execution provider fails."""
        return self._pipeline.engine.info

    @property
    def ready(self) -> bool:
        """True while requests are accepted: the model is in service and its engine works."""
        return self._scheduler.healthy and not self._scheduler.closing

    @property
    def waiting(self) -> dict[Priority, tuple[int, int]]:
        """Waiting requests and their tokens, by priority. Safe from any thread."""
        return self._scheduler.waiting

    @property
    def running(self) -> int:
        """Requests that the engine has taken and that are not answered yet. Safe from any thread."""
        return self._scheduler.running

    @property
    def engine_idle(self) -> bool:
        """True while the engine thread has nothing to do for any model."""
        return self._engine_thread.idle

    def early_refusal(self, deadline: float | None, client: str) -> Overloaded | None:
        """Return the error if any request of a client would be refused because of the load, and count it.

        Args:
            deadline: time after which the answer is useless, in seconds. None: none.
            client: who asks.
        """
        if self._answer_cache is not None:
            return None
        began = time.perf_counter_ns()
        error = self._scheduler.overload(deadline, client)
        if error is not None:
            self._scheduler.count_refusal(error)
            self.statistics.record_failure(time.perf_counter_ns() - began)
        return error

    async def predict(self, request: TextRequest) -> Prediction:
        """Answer one request.

        Raises:
            InvalidRequest: the request cannot be answered as sent.
            Overloaded: the queue is full, or the deadline cannot be met.
            DeadlineExceeded: the deadline has passed.
            Unavailable: the model is being closed, or its engine is broken.
            EngineError: the engine failed on the batch.
        """
        if self._answer_cache is not None:
            cached_answer = self._answer_cache.find(request)
            if cached_answer is not None:
                return await self._resolve(request, cached_answer)
        if request.inputs.characters <= _TOKENIZE_INLINE:
            # Before tokenization, so that a refusal costs little.
            with _FailureCounter(self.statistics):
                self._scheduler.check(request.deadline, request.priority, client=request.client)
            prepared = self._pipeline.prepare(request)
        else:
            (outcome,) = await self._preparation.prepare([request], request.client)
            if not isinstance(outcome, PreparedRequest):
                raise outcome
            prepared = outcome
        return await self._resolve(request, await self._answer(prepared))

    async def predict_many(self, requests: Sequence[TextRequest]) -> list[Prediction | PalmServeError]:
        """Answer many requests, in order. A request that fails becomes its error."""
        answers = await self._cached_or_computed(requests)
        if self._pipeline.values is None:
            return answers
        for index, answer in enumerate(answers):
            if isinstance(answer, Prediction):
                answers[index] = await self._resolve(requests[index], answer)
        return answers

    async def _cached_or_computed(self, requests: Sequence[TextRequest]) -> list[Prediction | PalmServeError]:
        if self._answer_cache is None:
            return await self._predict_many(requests)
        cached_answers: dict[int, Prediction] = {}
        uncached_requests: list[TextRequest] = []
        for index, request in enumerate(requests):
            answer = self._answer_cache.find(request)
            if answer is None:
                uncached_requests.append(request)
            else:
                cached_answers[index] = answer
        computed_answers = iter(await self._predict_many(uncached_requests))
        answers: list[Prediction | PalmServeError] = []
        for index in range(len(requests)):
            answers.append(cached_answers[index] if index in cached_answers else next(computed_answers))
        return answers

    async def _resolve(self, request: TextRequest, prediction: Prediction) -> Prediction:
        """Return a prediction with the meanings of its values. They are not cached: some depend on the time."""
        values = self._pipeline.values
        return prediction if values is None else await values.resolve_later(request, prediction)

    async def wait_for_room(self, request: TextRequest) -> PalmServeError | None:
        """Wait a moment for room in the queue, on behalf of a batch that begins with this request.

        A client that sends many batches at once would else be refused at once, again and again, and take the processor
        from the engine.

        Returns:
            The error with which the request would be refused after that moment. None: it would be queued.
        """
        if self._answer_cache is not None:
            return None
        refusal = self._refusal(request)
        if isinstance(refusal, Overloaded):
            await asyncio.sleep(patience_s(request.deadline))
            refusal = self._refusal(request)
        return refusal if isinstance(refusal, Overloaded) else None

    def record_refusal(self, error: PalmServeError) -> None:
        """Count a request of a batch that was refused after `wait_for_room`."""
        self._count_refusal(error)

    async def _predict_many(self, requests: Sequence[TextRequest]) -> list[Prediction | PalmServeError]:
        if not requests:
            return []
        return await BatchFeed(requests, self._preparation, self._room, self._answer, self._waiters).run()

    def _room(self, request: TextRequest) -> int:
        """Return how many requests like this one may be queued now. Those that are being tokenized have their places."""
        room = self._scheduler.room(request.priority, request.client)
        return min(room - self._preparation.texts(request.client), self._preparation.room(request.client))

    async def _answer(self, prepared: PreparedRequest) -> Prediction:
        with _FailureCounter(self.statistics):
            if self._answer_cache is None:
                return await self._submit(prepared)
            return await self._answer_cache.get_or_compute(prepared.request, partial(self._submit, prepared))

    async def _submit(self, prepared: PreparedRequest) -> Prediction:
        request = prepared.request
        answer = await self._scheduler.submit(
            prepared, prepared.tokens, request.deadline, request.priority, request.client
        )
        if self.mirror is not None:
            self.mirror(request, answer, self._kinds)
        return answer

    async def close(self) -> None:
        """Wait until no caller uses the model, refuse new requests and finish those that were accepted."""
        await self._unused.wait()
        await self._scheduler.close()
        if self._pipeline.values is not None:
            self._pipeline.values.close()


class _FailureCounter:
    """Counts the failures of a text. A class, because it is entered twice a call and a generator costs four times as much."""

    __slots__ = ("_began", "_statistics")

    def __init__(self, statistics: ModelStatistics) -> None:
        self._statistics = statistics

    def __enter__(self) -> None:
        self._began = time.perf_counter_ns()

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is not None and issubclass(kind, PalmServeError):
            self._statistics.record_failure(time.perf_counter_ns() - self._began)


def _refusal_functions(
    scheduler: Scheduler[Any, Any, Any], statistics: ModelStatistics
) -> tuple[Callable[[TextRequest], PalmServeError | None], Callable[[PalmServeError], None]]:
    """Return a function that tells how the queue would refuse a request, and one that counts such a request."""

    def refusal(request: TextRequest) -> PalmServeError | None:
        return scheduler.refusal(request.deadline, request.priority, client=request.client)

    def count_refusal(error: PalmServeError) -> None:
        scheduler.count_refusal(error)
        statistics.record_failure(0)

    return refusal, count_refusal


def _decoder(
    pipeline: Pipeline, statistics: ModelStatistics
) -> Callable[[Sequence[PreparedRequest], EngineOutputs, Sequence[float]], list[Prediction]]:
    """Return a function that decodes a batch and counts it."""

    def decode_batch(
        requests: Sequence[PreparedRequest], outputs: EngineOutputs, waits_s: Sequence[float]
    ) -> list[Prediction]:
        """Decode a batch and count it.

        Args:
            requests: requests of the batch.
            outputs: outputs of the engine.
            waits_s: seconds that each request waited.
        """
        predictions = pipeline.decode(requests, outputs, waits_s)
        statistics.record_batch(predictions)
        return predictions

    return decode_batch


def _failure_logger(name: str, version: str) -> Callable[[BaseException], None]:
    """Return a function that logs the failure of a model's engine."""

    def log_failure(error: BaseException) -> None:
        log.error("model %s %s is out of service until its engine works: %s", name, version[:12], error)

    return log_failure

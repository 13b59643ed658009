"""Per-model scheduler: queues requests for the engine thread and awaits their results."""

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from palm_serve.batching.admission import ScheduledBatch, displaced_error
from palm_serve.batching.batch_handler import BatchOutcome
from palm_serve.batching.engine_thread import EngineThread
from palm_serve.batching.observer import FinishedBatch, Observer, SilentObserver
from palm_serve.batching.plan import BatchLimits
from palm_serve.batching.queue import EngineLatency, QueuedRequest
from palm_serve.errors import DeadlineExceeded, EngineError, Overloaded, PalmServeError, Unavailable, Unmeetable
from palm_serve.types import Priority

T = TypeVar("T")
C = TypeVar("C")
R = TypeVar("R")

log = logging.getLogger(__name__)

_CLOSING = "the model is being taken out of service; try another replica"
_BROKEN = "the model's engine failed and is being tried again; try another replica"
_OVERDUE = "the engine does not finish its work; try another replica"
_OVERLOAD_S = 0.05
"""Time after a refusal in which other calls are looked at before their messages are read."""


@dataclass(slots=True, eq=False)
class _Submission(Generic[T, R]):
    """A payload in the queue of the scheduler, and the future of its result."""

    payload: T
    future: "asyncio.Future[R]"


class Scheduler(Generic[T, C, R]):
    """Collects the requests of one model into batches. Belongs to the event loop that it is made on and never blocks it.

    Args:
        engine_thread: runs the engine, together with those of other models.
        run: maps the payloads of a batch to what `decode` needs. All work that holds the engine. Calls do not overlap.
        decode: maps payloads, the result of `run` and the seconds that each waited to one result each, in order. Calls
            do not overlap. An exception here or in `run` fails only this batch.
        limits: limits of a batch and of the queue.
        observer: receives batches, and requests that are not run.
        padded_tokens: maps rows and longest row to the tokens that the engine computes.
        latency: latency of the engine, where it is known already.
        probe: tries an engine that failed. Raises an exception if it still does not work.
        on_failure: called in the engine's thread with the error when the engine breaks.
        interrupt: asks the engine's run in progress to end. Called in another thread than `run`.
    """

    def __init__(
        self,
        engine_thread: EngineThread,
        run: Callable[[Sequence[T]], C],
        decode: Callable[[Sequence[T], C, Sequence[float]], Sequence[R]],
        limits: BatchLimits | None = None,
        observer: Observer | None = None,
        padded_tokens: Callable[[int, int], int] = lambda rows, length: rows * length,
        latency: EngineLatency | None = None,
        probe: Callable[[], object] = lambda: None,
        on_failure: Callable[[BaseException], object] = lambda error: None,
        interrupt: Callable[[], object] = lambda: None,
    ) -> None:
        self._engine_thread = engine_thread
        self._run = run
        self._decode = decode
        self._observer = observer or SilentObserver()
        self._probe = probe
        self._on_failure = on_failure
        self._interrupt = interrupt
        self._loop = asyncio.get_running_loop()
        self._pending = 0
        self._none_pending = asyncio.Event()
        self._none_pending.set()
        self._closing = False
        self._waking = False
        self._healthy = True
        self._last_refusal = -math.inf
        self._queues = engine_thread.open(self, limits or BatchLimits(), padded_tokens, latency or EngineLatency())

    @property
    def closing(self) -> bool:
        """True once `close` was called: further requests are refused."""
        return self._closing

    @property
    def healthy(self) -> bool:
        """True while the engine works, as its last batches and trials showed."""
        return self._healthy and not self._engine_thread.overdue

    @property
    def waiting(self) -> dict[Priority, tuple[int, int]]:
        """Waiting requests and their tokens, by priority. Safe from any thread."""
        return {priority: (queue.rows, queue.tokens) for priority, queue in self._queues.items()}

    @property
    def running(self) -> int:
        """Requests that the engine has taken and that are not answered yet. Safe from any thread."""
        running = self._pending
        for queue in self._queues.values():
            running -= queue.rows
        return max(0, running)

    def room(self, priority: Priority, client: str) -> int:
        """Return how many more requests of a client its queue takes now."""
        return self._engine_thread.room(self._queues[priority], client)

    def check(
        self, deadline: float | None, priority: Priority = Priority.INTERACTIVE, length: int = 1, client: str = ""
    ) -> None:
        """Raise what `submit` would raise at once. Cheap enough to call before a text is tokenized.

        Args:
            deadline: time after which the answer is useless, in seconds. None: none.
            priority: priority of the request.
            length: tokens of the request.
            client: who asks.

        Raises:
            PalmServeError: the same errors as `submit`.
        """
        self._check_open()
        try:
            self._engine_thread.check(self._queues[priority], length, deadline, client)
        except PalmServeError as error:
            self.count_refusal(error)
            raise

    def refusal(
        self, deadline: float | None, priority: Priority = Priority.INTERACTIVE, length: int = 1, client: str = ""
    ) -> PalmServeError | None:
        """Return what `submit` would raise at once. It is not counted.

        Args:
            deadline: time after which the answer is useless, in seconds. None: none.
            priority: priority of the request.
            length: tokens of the request.
            client: who asks.
        """
        try:
            self._check_open()
            self._engine_thread.check(self._queues[priority], length, deadline, client)
        except PalmServeError as error:
            return error
        return None

    def overload(self, deadline: float | None, client: str) -> Overloaded | None:
        """Return the error if even the shortest request of a client would be refused, whatever its priority. It is not counted.

        Looks only while requests are refused, so that calls cost nothing more while they are not.

        Args:
            deadline: time after which the answer is useless, in seconds. None: none.
            client: who asks.
        """
        if self._engine_thread.clock() > self._last_refusal + _OVERLOAD_S:
            return None
        error = self.refusal(deadline, Priority.INTERACTIVE, 1, client)
        if not isinstance(error, Overloaded):
            return None
        return error if isinstance(self.refusal(deadline, Priority.BATCH, 1, client), Overloaded) else None

    def count_refusal(self, error: PalmServeError) -> None:
        """Count a request that was refused. One for a model that is closed or broken does not count."""
        if isinstance(error, Overloaded):
            self._last_refusal = self._engine_thread.clock()
        if isinstance(error, Unmeetable):
            self._observer.unmeetable()
        elif isinstance(error, Overloaded):
            self._observer.refused()
        elif isinstance(error, DeadlineExceeded):
            self._observer.expired()

    async def submit(
        self,
        payload: T,
        length: int,
        deadline: float | None = None,
        priority: Priority = Priority.INTERACTIVE,
        client: str = "",
    ) -> R:
        """Return the result for one payload.

        A cancelled caller gives up its request. The other requests of the batch go on.

        Args:
            payload: what `run` takes.
            length: tokens of the payload.
            deadline: time after which the answer is useless, in seconds. None: none.
            priority: priority of the request.
            client: who asks. The clients of a model take turns.

        Raises:
            Overloaded: the queue is full.
            Unmeetable: the deadline would pass before the answer.
            DeadlineExceeded: the deadline has passed.
            Unavailable: the scheduler is closing, or the engine is broken.
            EngineError: the batch failed.
        """
        self._check_open()
        submission: _Submission[T, R] = _Submission(payload, self._loop.create_future())
        try:
            request = self._engine_thread.submit(self._queues[priority], submission, length, deadline, client)
        except PalmServeError as error:
            self.count_refusal(error)
            raise
        if request.displaced:
            self._fail_displaced(request)
        if self._engine_thread.sleeping and not self._waking:
            # After everything that the loop has ready now, so that requests which arrived together run together.
            self._waking = True
            self._loop.call_soon(self._wake)
        timer = None
        if deadline is not None:
            timer = self._loop.call_later(deadline - request.arrived, self._expire, request)
        self._pending += 1
        self._none_pending.clear()
        try:
            return await submission.future
        except asyncio.CancelledError:
            self._withdraw(request, expired=request.deadline <= self._engine_thread.clock())
            raise
        finally:
            if timer is not None:
                timer.cancel()
            self._pending -= 1
            if not self._pending:
                self._none_pending.set()

    async def close(self) -> None:
        """Refuse new requests, finish those that wait and run, and leave the engine thread."""
        self._closing = True
        await self._none_pending.wait()
        await asyncio.to_thread(self._engine_thread.close, self._queues.values())

    def _check_open(self) -> None:
        if self._closing:
            raise Unavailable(_CLOSING)
        if not self._healthy:
            raise Unavailable(_BROKEN)
        if self._engine_thread.overdue:
            raise Unavailable(_OVERDUE)

    def _wake(self) -> None:
        self._waking = False
        self._engine_thread.wake()

    def _fail_displaced(self, request: QueuedRequest[_Submission[T, R]]) -> None:
        """Fail the requests that lost their places in a full queue to this one."""
        for displaced in request.displaced:
            error = displaced_error(displaced)
            self.count_refusal(error)
            _fail(displaced, error)
        request.displaced = ()

    def _expire(self, request: QueuedRequest[_Submission[T, R]]) -> None:
        """Fail a request whose deadline is now."""
        waited_s = self._engine_thread.clock() - request.arrived
        waiting = self._withdraw(request, expired=True)
        place = "in the queue" if waiting else "while its batch ran"
        _fail(request, DeadlineExceeded(f"the deadline passed after {waited_s:.3f} s {place}"))

    def _withdraw(self, request: QueuedRequest[_Submission[T, R]], expired: bool) -> bool:
        """Give up a request. Return True if it was still waiting."""
        waiting = self._engine_thread.abandon(request)
        if waiting and expired:
            self._observer.expired()
        elif waiting:
            self._observer.cancelled()
        return waiting

    # The methods of `BatchHandler`: the engine thread and the decoding thread call them.

    def run(self, batch: ScheduledBatch[_Submission[T, R]]) -> C:
        """Run the engine on a batch."""
        return self._run([request.payload.payload for request in batch.requests])

    def decode(self, batch: ScheduledBatch[_Submission[T, R]], values: C) -> Sequence[R]:
        """Decode the values of a batch into one result for each request."""
        payloads = []
        waits_s = []
        for request in batch.requests:
            payloads.append(request.payload.payload)
            waits_s.append(batch.started - request.arrived)
        results = self._decode(payloads, values, waits_s)
        if len(results) != len(batch.requests):
            raise RuntimeError(f"decode must return {len(batch.requests)} results, got {len(results)}")
        return results

    def probe(self) -> None:
        """Try the engine. Raise an exception if it does not work."""
        self._probe()

    def interrupt(self) -> None:
        """Ask the engine's run in progress to end."""
        self._interrupt()

    def deliver(self, batch: ScheduledBatch[_Submission[T, R]], outcome: BatchOutcome) -> None:
        """Deliver the outcome of a batch to its callers."""
        self._call_in_loop(self._deliver, batch, outcome)

    def reject(self, requests: list[QueuedRequest[_Submission[T, R]]]) -> None:
        """Reject requests whose deadline can no longer be met."""
        self._call_in_loop(self._reject, requests)

    def engine_failed(self, error: BaseException, requests: list[QueuedRequest[_Submission[T, R]]]) -> None:
        """Fail the queued requests, and refuse new ones until the engine works."""
        self._healthy = False
        self._on_failure(error)
        self._call_in_loop(self._fail_all, requests)

    def engine_recovered(self) -> None:
        """Accept requests again."""
        self._healthy = True

    def _call_in_loop(self, function: Callable[..., None], *arguments: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)

    # The methods below run on the event loop.

    def _deliver(self, batch: ScheduledBatch[_Submission[T, R]], outcome: BatchOutcome) -> None:
        if outcome.error is not None:
            self._deliver_error(batch, outcome.error)
            return
        now = self._engine_thread.clock()
        late = 0
        for request, result in zip(batch.requests, outcome.results, strict=True):
            late += request.abandoned or request.deadline <= now
            if not request.payload.future.done():
                request.payload.future.set_result(result)
        self._observer.batch_finished(
            FinishedBatch(
                rows=len(batch.requests),
                tokens=batch.tokens,
                padded_tokens=batch.padded,
                waits_s=[batch.started - request.arrived for request in batch.requests],
                engine_s=outcome.ended - batch.started,
                service_s=now - batch.started,
                wasted=outcome.wasted,
                late=late - outcome.wasted,
            )
        )
        # Runs after all callers that got a result have reached their next await, so their answers are built and sent.
        self._loop.call_soon(self._engine_thread.record_delivery, batch, outcome.ended)

    def _deliver_error(self, batch: ScheduledBatch[_Submission[T, R]], error: BaseException) -> None:
        if not isinstance(error, PalmServeError):
            log.error("a batch of %d failed", len(batch.requests), exc_info=error)
            error = EngineError("the model failed on this batch")
        for request in batch.requests:
            _fail(request, error)

    def _reject(self, requests: list[QueuedRequest[_Submission[T, R]]]) -> None:
        now = self._engine_thread.clock()
        for request in requests:
            if request.payload.future.done():
                continue
            self._observer.expired()
            waited_s = now - request.arrived
            if request.deadline <= now:
                _fail(request, DeadlineExceeded(f"the deadline passed after {waited_s:.3f} s in the queue"))
                continue
            remaining_ms = 1e3 * (request.deadline - now)
            message = f"after {waited_s:.3f} s in the queue, {remaining_ms:.0f} ms remain, too few to answer"
            _fail(request, Unmeetable(message, waited_s))

    def _fail_all(self, requests: list[QueuedRequest[_Submission[T, R]]]) -> None:
        self._observer.engine_failed()
        for request in requests:
            _fail(request, Unavailable(_BROKEN))


def _fail(request: QueuedRequest[_Submission[T, R]], error: PalmServeError) -> None:
    request.abandoned = True
    if not request.payload.future.done():
        request.payload.future.set_exception(error)

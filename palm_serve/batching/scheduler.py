"""One model's door to a engine_thread: coroutines wait here for the results of their batches."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from palm_serve.batching.admission import ScheduledBatch
from palm_serve.batching.engine_thread import BatchOutcome, EngineThread
from palm_serve.batching.observer import FinishedBatch, Observer, SilentObserver
from palm_serve.batching.plan import BatchLimits
from palm_serve.batching.queue import EngineLatency, QueuedRequest
from palm_serve.errors import DeadlineExceeded, EngineError, Overloaded, PalmServeError, Unavailable, Unmeetable
from palm_serve.types import Priority

T = TypeVar("T")
C = TypeVar("C")
R = TypeVar("R")

log = logging.getLogger(__name__)

_LEAVING = "the model is being taken out of service; try another replica"
_BROKEN = "the model's engine failed and is being tried again; try another replica"


@dataclass(slots=True, eq=False)
class _Asked(Generic[T, R]):
    payload: T
    future: "asyncio.Future[R]"


class Scheduler(Generic[T, C, R]):
    """Feeds one engine with batches of what waits. Lives on the event loop that it is made on, which it never blocks.

    Args:
        engine_thread: where the engine runs, with those of other models.
        run: payloads of a batch -> what `decode` needs; all that holds the engine. Not called twice at once.
        decode: payloads, what `run` returned, how long each waited (seconds) -> one result each, in order. Not called twice at once; an exception
            here or in `run` fails this batch only.
        limits: of a batch and of the queue.
        observer: is told about batches and about requests that cost no row.
        padded: rows and longest row -> tokens that the engine computes.
        timing: what is known of the engine's speed already.
        probe: tries an engine that failed; raises where it still does.
        on_failure: is told, in the engine's thread, that the engine broke.
    """

    def __init__(
        self,
        engine_thread: EngineThread,
        run: Callable[[Sequence[T]], C],
        decode: Callable[[Sequence[T], C, Sequence[float]], Sequence[R]],
        limits: BatchLimits | None = None,
        observer: Observer | None = None,
        padded: Callable[[int, int], int] = lambda rows, length: rows * length,
        timing: EngineLatency | None = None,
        probe: Callable[[], object] = lambda: None,
        on_failure: Callable[[BaseException], object] = lambda error: None,
    ) -> None:
        self._engine_thread = engine_thread
        self._run = run
        self._decode = decode
        self._observer = observer or SilentObserver()
        self._probe = probe
        self._on_failure = on_failure
        self._loop = asyncio.get_running_loop()
        self._timing = timing or EngineLatency()
        self._pending = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing = self._waking = False
        self._healthy = True
        self._queues = engine_thread.dispatcher.open(limits or BatchLimits(), padded, self._timing)
        engine_thread.enter(self, self._queues.values())

    @property
    def closing(self) -> bool:
        """Whether submissions are refused because the end has begun."""
        return self._closing

    @property
    def healthy(self) -> bool:
        """Whether the engine works, as far as its last batches and trials tell."""
        return self._healthy

    @property
    def waiting(self) -> dict[Priority, tuple[int, int]]:
        """Requests that wait and their tokens, by priority. From any thread."""
        return {priority: (queue.rows, queue.tokens) for priority, queue in self._queues.items()}

    @property
    def running(self) -> int:
        """Requests that the engine has taken and that are not answered yet. From any thread."""
        return max(0, self._pending - sum(rows for rows, _ in self.waiting.values()))

    def check(self, deadline: float | None, priority: Priority = Priority.INTERACTIVE, length: int = 1) -> None:
        """Raises what `submit` would raise at once; cheap, so it may come before a text is tokenized."""
        self._enter()
        with self._engine_thread.changed:
            try:
                self._engine_thread.dispatcher.check(
                    self._queues[priority], length, deadline, self._engine_thread.clock()
                )
            except PalmServeError as error:
                self._count(error)
                raise

    async def submit(
        self, payload: T, length: int, deadline: float | None = None, priority: Priority = Priority.INTERACTIVE
    ) -> R:
        """The result for one payload of `length` tokens.

        Raises Overloaded (queue full), Unmeetable (the deadline would pass before the answer), DeadlineExceeded (it passed), Unavailable (closing,
        or the engine is broken), EngineError (the batch failed). Cancelling the caller gives up the entry; others of its batch are not disturbed.
        """
        self._enter()
        asked: _Asked[T, R] = _Asked(payload, self._loop.create_future())
        with self._engine_thread.changed:
            now = self._engine_thread.clock()
            try:
                entry = self._engine_thread.dispatcher.admit(self._queues[priority], asked, length, deadline, now)
            except PalmServeError as error:
                self._count(error)
                raise
        if self._engine_thread.idle and not self._waking:
            # After everything that the loop has ready now, so that requests which arrived together run together.
            self._waking = True
            self._loop.call_soon(self._wake)
        timer = None if deadline is None else self._loop.call_later(deadline - now, self._expire, entry)
        self._pending += 1
        self._idle.clear()
        try:
            return await asked.future
        except asyncio.CancelledError:
            self._withdraw(entry, expired=entry.deadline <= self._engine_thread.clock())
            raise
        finally:
            if timer is not None:
                timer.cancel()
            self._pending -= 1
            if not self._pending:
                self._idle.set()

    async def close(self) -> None:
        """Takes no more, finishes what waits and runs, and leaves the engine_thread."""
        self._closing = True
        await self._idle.wait()
        await asyncio.to_thread(self._engine_thread.leave, self._queues.values())

    def _enter(self) -> None:
        if self._closing:
            raise Unavailable(_LEAVING)
        if not self._healthy:
            raise Unavailable(_BROKEN)

    def _count(self, error: PalmServeError) -> None:
        if isinstance(error, Unmeetable):
            self._observer.unmeetable()
        elif isinstance(error, Overloaded):
            self._observer.refused()
        else:
            self._observer.expired()

    def _wake(self) -> None:
        self._waking = False
        with self._engine_thread.changed:
            self._engine_thread.changed.notify()

    def _expire(self, entry: QueuedRequest[_Asked[T, R]]) -> None:
        """The deadline of an entry is now."""
        waited = self._engine_thread.clock() - entry.arrived
        waiting = self._withdraw(entry, expired=True)
        where = "in the queue" if waiting else "while its batch ran"
        _fail(entry, DeadlineExceeded(f"the deadline passed after {waited:.3f} s {where}"))

    def _withdraw(self, entry: QueuedRequest[_Asked[T, R]], expired: bool) -> bool:
        """Nobody wants this answer any more; whether it was still waiting."""
        with self._engine_thread.changed:
            entry.gone = True
            waiting = entry.waiting
            if waiting:
                entry.queue.withdraw(entry)
        if waiting:
            (self._observer.expired if expired else self._observer.cancelled)()
        return waiting

    # What follows but `_hand_out`, `_lost` and `_give_up` is called from the engine_thread's threads.

    def run(self, batch: ScheduledBatch[_Asked[T, R]]) -> C:
        """The engine's part of a batch."""
        return self._run([entry.payload.payload for entry in batch.entries])

    def decode(self, batch: ScheduledBatch[_Asked[T, R]], values: C) -> Sequence[R]:
        """The rest of a batch."""
        waits = [batch.started - entry.arrived for entry in batch.entries]
        results = self._decode([entry.payload.payload for entry in batch.entries], values, waits)
        if len(results) != len(batch.entries):
            raise RuntimeError(f"{len(results)} results for {len(batch.entries)} payloads")
        return results

    def probe(self) -> None:
        """Tries the engine."""
        self._probe()

    def deliver(self, batch: ScheduledBatch[_Asked[T, R]], outcome: BatchOutcome) -> None:
        """Hands out what became of a batch."""
        self._tell(self._hand_out, batch, outcome)

    def lose(self, entries: list[QueuedRequest[_Asked[T, R]]]) -> None:
        """Tells those whose deadline cannot be met any more."""
        self._tell(self._lost, entries)

    def broke(self, error: BaseException, entries: list[QueuedRequest[_Asked[T, R]]]) -> None:
        """Takes nothing more until the engine works."""
        self._healthy = False
        self._tell(self._give_up, entries)
        self._on_failure(error)

    def recovered(self) -> None:
        """Takes requests again."""
        self._healthy = True

    def _tell(self, what: Callable[..., None], *arguments: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(what, *arguments)

    def _hand_out(self, batch: ScheduledBatch[_Asked[T, R]], outcome: BatchOutcome) -> None:
        now = self._engine_thread.clock()
        if outcome.error is not None:
            error = outcome.error
            if not isinstance(error, PalmServeError):
                log.error("a batch of %d failed", len(batch.entries), exc_info=error)
                error = EngineError("the model failed on this batch")
            for entry in batch.entries:
                _fail(entry, error)
            return
        late = 0
        for entry, result in zip(batch.entries, outcome.results, strict=True):
            late += entry.gone or entry.deadline <= now
            if not entry.payload.future.done():
                entry.payload.future.set_result(result)
        self._observer.batch_finished(
            FinishedBatch(
                rows=len(batch.entries),
                tokens=batch.tokens,
                padded_tokens=batch.padded,
                waits_s=[batch.started - entry.arrived for entry in batch.entries],
                engine_s=outcome.ran - batch.started,
                service_s=now - batch.started,
                wasted=outcome.wasted,
                late=late - outcome.wasted,
            )
        )
        # Runs when all who got a result have gone on to their next wait, which is where answers are built and sent.
        self._loop.call_soon(self._measure, batch, outcome.ran)

    def _measure(self, batch: ScheduledBatch[_Asked[T, R]], ran: float) -> None:
        with self._engine_thread.changed:
            self._timing.rest.observe(batch.padded, self._engine_thread.clock() - ran)

    def _lost(self, entries: list[QueuedRequest[_Asked[T, R]]]) -> None:
        now = self._engine_thread.clock()
        for entry in entries:
            if entry.payload.future.done():
                continue
            self._observer.expired()
            waited = now - entry.arrived
            if entry.deadline <= now:
                _fail(entry, DeadlineExceeded(f"the deadline passed after {waited:.3f} s in the queue"))
            else:
                left = 1e3 * (entry.deadline - now)
                _fail(
                    entry,
                    Unmeetable(f"after {waited:.3f} s in the queue {left:.0f} ms are left, too few to answer", waited),
                )

    def _give_up(self, entries: list[QueuedRequest[_Asked[T, R]]]) -> None:
        self._observer.engine_failed()
        for entry in entries:
            _fail(entry, Unavailable(_BROKEN))


def _fail(entry: QueuedRequest[_Asked[T, R]], error: PalmServeError) -> None:
    entry.gone = True
    if not entry.payload.future.done():
        entry.payload.future.set_exception(error)

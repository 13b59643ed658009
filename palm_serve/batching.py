"""Who runs together: `plan_batch` is a pure decision, `Scheduler` the thin event-driven shell around it.

When the engine is free, the batch is formed from what waits at that moment, so that batches grow with the load and a lone request never
waits for company. There is no timer and no polling: a submission or the end of a batch is what starts the next one.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future as ThreadFuture
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from palm_serve.errors import DeadlineExceeded, EngineError, Overloaded, PalmServeError, Unavailable

T = TypeVar("T")
R = TypeVar("R")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What one batch, and the queue before it, may hold."""

    max_tokens: int = 4096
    """Padded tokens of a batch: longest row times rows. A single row may exceed it."""
    max_rows: int = 64
    max_padding: float = 0.1
    """Share of a batch's padded tokens that may be padding, 0 to 1 ..."""
    free_padding: int = 32
    """... unless it is no more than this many tokens: then it costs less than another run of the engine."""
    max_waiting: int = 2048
    """Requests that wait; more are refused."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A decision about the entries that wait, by index: which run now and which have lost their deadline. All others wait on."""

    batch: tuple[int, ...]
    expired: tuple[int, ...]


def plan_batch(lengths: Sequence[int], deadlines: Sequence[float | None], now: float, limits: BatchLimits) -> Plan:
    """The batch to run now from what waits, oldest first: the oldest entry and those of about its length.

    The oldest live entry is always in the batch, so an entry with n live ones before it runs in the (n+1)th batch at the latest. The others
    join in the order of how near their length is to the oldest one's (ties: oldest first), as long as tokens, rows and padding allow.

    Args:
        lengths: tokens of each entry.
        deadlines: of each entry, on the clock of `now`, seconds; None: none.
        now: seconds.
        limits: what a batch may hold.
    """
    expired = tuple(i for i, deadline in enumerate(deadlines) if deadline is not None and deadline <= now)
    gone = set(expired)
    live = [i for i in range(len(lengths)) if i not in gone]
    if not live:
        return Plan((), expired)
    oldest = live[0]
    chosen = [oldest]
    longest = tokens = lengths[oldest]
    for i in sorted(live[1:], key=lambda i: abs(lengths[i] - lengths[oldest])):
        if len(chosen) == limits.max_rows:
            break
        width, total = max(longest, lengths[i]), tokens + lengths[i]
        padded = width * (len(chosen) + 1)
        padding = padded - total
        if padded <= limits.max_tokens and (padding <= limits.free_padding or padding <= limits.max_padding * padded):
            chosen.append(i)
            longest, tokens = width, total
    return Plan(tuple(sorted(chosen)), expired)


class Observer(Protocol):
    """Told what the scheduler does; every call is quick and on the event loop."""

    def ran(self, rows: int, tokens: int, padded_tokens: int, waits_s: Sequence[float], service_s: float) -> None:
        """A batch ran: its size, how long each row waited, and how long model and decoding took together."""

    def refused(self) -> None:
        """A request found the queue full."""

    def expired(self) -> None:
        """A request's deadline passed before a row was spent on it."""

    def cancelled(self) -> None:
        """A request was given up before a row was spent on it."""


class Unobserved:
    """An observer that does nothing."""

    def ran(self, rows: int, tokens: int, padded_tokens: int, waits_s: Sequence[float], service_s: float) -> None:
        """Ignored."""

    def refused(self) -> None:
        """Ignored."""

    def expired(self) -> None:
        """Ignored."""

    def cancelled(self) -> None:
        """Ignored."""


@dataclass(frozen=True, slots=True)
class _Entry(Generic[T, R]):
    payload: T
    length: int
    deadline: float | None
    arrived: float
    future: "asyncio.Future[R]"


class Scheduler(Generic[T, R]):
    """Feeds one engine, in a thread of its own, with batches of what waits. Lives on one event loop, which it never blocks.

    Args:
        run: payloads of a batch and how long each waited (seconds) -> one result each, in order. Called in the engine's thread, one batch at a
            time; an exception fails this batch only.
        limits: of a batch and of the queue.
        observer: is told about batches and about requests that cost no row.
        padded: rows and longest row -> tokens that the engine computes.
        clock: seconds; the clock of the deadlines.
    """

    def __init__(
        self,
        run: Callable[[Sequence[T], Sequence[float]], Sequence[R]],
        limits: BatchLimits | None = None,
        observer: Observer | None = None,
        padded: Callable[[int, int], int] = lambda rows, length: rows * length,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._limits = limits or BatchLimits()
        self._observer = observer or Unobserved()
        self._padded = padded
        self._clock = clock
        self._waiting: list[_Entry[T, R]] = []
        self._running = False
        self._closing = False
        self._planned = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._engine = ThreadPoolExecutor(max_workers=1, thread_name_prefix="palm-engine")
        self._seconds_per_token = 0.0

    @property
    def closing(self) -> bool:
        """Whether submissions are refused because the end has begun."""
        return self._closing

    async def submit(self, payload: T, length: int, deadline: float | None = None) -> R:
        """The result for one payload of `length` tokens.

        Raises Overloaded (queue full), DeadlineExceeded (lost while it waited), Unavailable (closing), EngineError (the batch failed).
        Cancelling the caller gives up the entry; others of its batch are not disturbed.
        """
        if self._closing:
            raise Unavailable("the model is being taken out of service; try another replica")
        if len(self._waiting) >= self._limits.max_waiting:
            self._drop_cancelled()
        if len(self._waiting) >= self._limits.max_waiting:
            self._observer.refused()
            retry = self._retry_after_s()
            raise Overloaded(
                f"{self._limits.max_waiting} requests wait already, the limit; try again in {retry:.2f} s", retry
            )
        loop = asyncio.get_running_loop()
        entry: _Entry[T, R] = _Entry(payload, length, deadline, self._clock(), loop.create_future())
        self._waiting.append(entry)
        self._idle.clear()
        if not self._running and not self._planned:
            # After everything that the loop has ready now, so that requests which arrived together run together.
            self._planned = True
            loop.call_soon(self._start_next)
        return await entry.future

    async def close(self) -> None:
        """Takes no more, finishes what waits and runs, and ends the engine's thread."""
        self._closing = True
        await self._idle.wait()
        self._engine.shutdown(wait=True)

    def _drop_cancelled(self) -> None:
        live = [entry for entry in self._waiting if not entry.future.done()]
        for _ in range(len(self._waiting) - len(live)):
            self._observer.cancelled()
        self._waiting = live

    def _start_next(self) -> None:
        """Starts the next batch, if there is one; the engine is free."""
        self._planned = False
        self._drop_cancelled()
        now = self._clock()
        waiting = self._waiting
        plan = plan_batch([e.length for e in waiting], [e.deadline for e in waiting], now, self._limits)
        for i in plan.expired:
            self._observer.expired()
            waiting[i].future.set_exception(
                DeadlineExceeded(f"the deadline passed after {now - waiting[i].arrived:.3f} s in the queue")
            )
        left = {*plan.batch, *plan.expired}
        self._waiting = [entry for i, entry in enumerate(waiting) if i not in left]
        if not plan.batch:
            self._idle.set()
            return
        batch = [waiting[i] for i in plan.batch]
        waits = [now - entry.arrived for entry in batch]
        self._running = True
        loop = asyncio.get_running_loop()
        work = self._engine.submit(self._run, [entry.payload for entry in batch], waits)
        work.add_done_callback(lambda done: loop.call_soon_threadsafe(self._finish, batch, waits, now, done))

    def _finish(
        self, batch: list[_Entry[T, R]], waits: list[float], started: float, done: "ThreadFuture[Sequence[R]]"
    ) -> None:
        """Hands out the results of a batch, then lets the next one start."""
        self._running = False
        service = self._clock() - started
        padded = self._padded(len(batch), max(entry.length for entry in batch))
        self._seconds_per_token += 0.2 * (service / padded - self._seconds_per_token)
        failure = done.exception()
        if failure is None and len(done.result()) != len(batch):
            failure = RuntimeError(f"{len(done.result())} results for {len(batch)} payloads")
        try:
            if failure is not None:
                self._fail(batch, failure)
                return
            for entry, result in zip(batch, done.result(), strict=True):
                if not entry.future.done():
                    entry.future.set_result(result)
            self._observer.ran(len(batch), sum(entry.length for entry in batch), padded, waits, service)
        finally:
            self._start_next()

    def _fail(self, batch: list[_Entry[T, R]], failure: BaseException) -> None:
        if isinstance(failure, PalmServeError):
            error = failure
        else:
            log.error("a batch of %d failed", len(batch), exc_info=failure)
            error = EngineError("the model failed on this batch")
        for entry in batch:
            if not entry.future.done():
                entry.future.set_exception(error)

    def _retry_after_s(self) -> float:
        """About when half of what waits will be done, from how fast the last batches were."""
        tokens = sum(entry.length for entry in self._waiting)
        return min(max(0.5 * tokens * self._seconds_per_token, 0.05), 5.0)

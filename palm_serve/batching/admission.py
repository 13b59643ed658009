"""Several queues before one engine thread: who is let in, and whose turn it is. Time is an argument; no thread, no event loop."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from palm_serve.batching.plan import BatchLimits
from palm_serve.batching.queue import EngineLatency, Queue, QueuedRequest
from palm_serve.errors import DeadlineExceeded, Overloaded, Unmeetable
from palm_serve.types import Priority

T = TypeVar("T")

WEIGHTS = {Priority.INTERACTIVE: 8.0, Priority.BATCH: 1.0}
"""Shares of the engine while both wait: batch requests yield, and still get a ninth of it."""

PATIENCE = 2.0
"""Nobody shall wait longer than this times what waits before it takes to run, in order of arrival ..."""
_REORDERED = 16.0
"""... and one with a deadline no more than so many full batches longer: enough to find company of its length."""
_SHORTEST_RETRY_S, _LONGEST_RETRY_S = 0.005, 5.0


@dataclass(frozen=True, slots=True)
class ScheduledBatch(Generic[T]):
    """What the engine is to do next."""

    queue: Queue[T]
    entries: list[QueuedRequest[T]]
    lost: list[QueuedRequest[T]]
    """Not to be run: their deadline has passed, or cannot be met any more."""
    started: float
    tokens: int = 0
    padded: int = 0
    expected: float = 0.0
    """Seconds."""


class AdmissionController(Generic[T]):
    """The queues of one engine thread. Calls must not overlap."""

    def __init__(self) -> None:
        self._queues: list[Queue[T]] = []
        self._busy_until: float | None = None
        self._served = 0.0
        """`Queue.served` of the queue that ran last."""

    @property
    def waiting(self) -> bool:
        """Whether anything waits."""
        return any(queue.rows for queue in self._queues)

    @property
    def free(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return self._busy_until is None and not self.waiting

    def open(
        self, limits: BatchLimits, padded: Callable[[int, int], int], timing: EngineLatency | None = None
    ) -> dict[Priority, Queue[T]]:
        """Queues for one more model."""
        timing = timing or EngineLatency()
        queues = {priority: Queue[T](limits, timing, padded, weight) for priority, weight in WEIGHTS.items()}
        self._queues.extend(queues.values())
        return queues

    def close(self, queues: Iterable[Queue[T]]) -> None:
        """Forgets a model whose queues are empty."""
        gone = {*queues}
        self._queues = [queue for queue in self._queues if queue not in gone]

    def admit(self, queue: Queue[T], payload: T, length: int, deadline: float | None, now: float) -> QueuedRequest[T]:
        """Lets a request in. Raises Overloaded where there is no room or its deadline cannot be met, DeadlineExceeded where that has passed."""
        due = self.check(queue, length, deadline, now)
        if not queue.rows:
            queue.served = max(queue.served, self._served)
        entry = QueuedRequest(queue, payload, length, now, due, math.inf if deadline is None else deadline)
        queue.push(entry)
        return entry

    def check(self, queue: Queue[T], length: int, deadline: float | None, now: float) -> float:
        """When a request would be due if it came now. Raises what `admit` raises."""
        if deadline is not None and deadline <= now:
            raise DeadlineExceeded("the deadline has passed already")
        limits, wait = queue.limits, self._wait(queue, queue.rows, queue.tokens, now)
        if queue.rows >= limits.max_waiting:
            raise _overloaded(f"{limits.max_waiting:,} requests wait already, the limit", wait / 2)
        if queue.rows and queue.tokens + length > limits.max_waiting_tokens:
            raise _overloaded(
                f"{queue.tokens:,} tokens wait already; the limit is {limits.max_waiting_tokens:,}", wait / 2
            )
        due = now + PATIENCE * wait
        if deadline is None:
            return due
        alone = queue.timing.run.bound(queue.padded(1, length)) + queue.timing.rest.bound(length)
        # And in the batch that it may find itself in.
        latest = deadline - alone - max(0.0, queue.full_batch(length) - queue.timing.run.predict(length))
        if now + self._patient(queue, wait, length) <= latest:
            return min(due, latest)
        if self._may_overtake(queue, length, latest, now):
            return latest
        left = f"{1e3 * (deadline - now):.0f} ms are left of its deadline"
        if deadline - alone <= now:
            raise _unmeetable(f"{left}, and one such request takes up to {1e3 * alone:.0f} ms", wait)
        raise _unmeetable(
            f"{left}, and what waits before it takes {1e3 * wait:.0f} ms",
            now + self._patient(queue, wait, length) - latest,
        )

    def next(self, now: float) -> ScheduledBatch[T] | None:
        """What to do now that the engine is free; None: nothing."""
        queues = [queue for queue in self._queues if queue.rows]
        if not queues:
            return None
        queue = min(queues, key=_turn)
        entries, lost = queue.take(now)
        if not entries:
            return ScheduledBatch(queue, entries, lost, now)
        tokens = sum(entry.length for entry in entries)
        padded = queue.padded(len(entries), max(entry.length for entry in entries))
        expected = queue.timing.run.predict(padded)
        self._busy_until = now + expected
        self._served = queue.served
        return ScheduledBatch(queue, entries, lost, now, tokens, padded, expected)

    def finished(self, batch: ScheduledBatch[T], now: float) -> None:
        """The engine is through with a batch."""
        seconds = now - batch.started
        self._busy_until = None
        batch.queue.served += seconds / batch.queue.weight
        batch.queue.timing.run.observe(batch.padded, seconds)

    def failed(self, batch: ScheduledBatch[T], now: float) -> None:
        """The engine failed on a batch: its time counts, but teaches nothing."""
        self._busy_until = None
        batch.queue.served += (now - batch.started) / batch.queue.weight

    def _busy(self, now: float) -> float:
        """Seconds until the engine is free. A batch that takes longer than expected is believed to need as long again as it is late."""
        return 0.0 if self._busy_until is None else abs(self._busy_until - now)

    def _wait(self, queue: Queue[T], rows: int, tokens: int, now: float) -> float:
        """Seconds until so much of a queue has run. Others take of the engine what they have waiting, and no more than their share."""
        own = queue.work(rows, tokens)
        others = sum(
            min(other.work(other.rows, other.tokens), own * other.weight / queue.weight)
            for other in self._queues
            if other is not queue and other.rows
        )
        return self._busy(now) + own + others

    def _patient(self, queue: Queue[T], wait: float, length: int) -> float:
        """Seconds that an entry with a deadline must be able to wait."""
        return wait + min((PATIENCE - 1) * wait, _REORDERED * queue.full_batch(length))

    def _may_overtake(self, queue: Queue[T], length: int, latest: float, now: float) -> bool:
        """Whether a request can be put before those that have more time than it, so that it starts by `latest` and they in their time."""
        behind = queue.after(latest)
        if not behind or latest <= now:
            return False
        rows, tokens = queue.rows - len(behind), queue.tokens - sum(entry.length for entry in behind)
        if now + self._patient(queue, self._wait(queue, rows, tokens, now), length) > latest:
            return False
        costs, crowd = queue.costs, self._wait(queue, rows + 1, tokens + length, now)
        start = now + crowd
        # What the others take, and padding, delays those behind by the same share as those before.
        stretch = (crowd - self._busy(now)) / max(costs.per_token * (tokens + length), 1e-9)
        for entry in behind:
            if start > entry.due:
                return False
            start += stretch * costs.per_token * entry.length
        return True


def _turn(queue: Queue[T]) -> tuple[float, float]:
    """Where a queue would stand after its next batch, so that those of small weight yield; of equals the weightier is first."""
    following = min(queue.work(queue.rows, queue.tokens), queue.full_batch(0))
    return queue.served + following / queue.weight, -queue.weight


def _overloaded(what: str, seconds: float) -> Overloaded:
    retry = _retry(seconds)
    return Overloaded(f"{what}; try again in {retry:.2f} s", retry)


def _unmeetable(what: str, seconds: float) -> Unmeetable:
    retry = _retry(seconds)
    return Unmeetable(f"the request cannot be answered in time: {what}; try again in {retry:.2f} s", retry)


def _retry(seconds: float) -> float:
    return min(max(seconds, _SHORTEST_RETRY_S), _LONGEST_RETRY_S)

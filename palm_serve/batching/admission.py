"""Admission control and fair queueing for one engine thread: which requests are accepted, and which queue runs next.

Time is an argument. Nothing here starts a thread or needs an event loop.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from palm_serve.batching.client_queue import ClientWeight, equal_weight
from palm_serve.batching.plan import BatchLimits
from palm_serve.batching.queue import EngineLatency, Queue, QueuedRequest
from palm_serve.errors import DeadlineExceeded, Overloaded, Unmeetable
from palm_serve.types import Priority

T = TypeVar("T")

WEIGHTS = {Priority.INTERACTIVE: 8.0, Priority.BATCH: 1.0}
"""Shares of the engine while both priorities wait. Batch requests yield, and still get a ninth of it."""

PATIENCE = 2.0
"""A request waits at most this many times as long as it would in order of arrival."""
_REORDERED_BATCHES = 16.0
"""A request with a deadline waits for at most this many full batches more than in order of arrival."""
_TRIAL_INTERVAL_S = 0.25
"""A free engine runs at most one request in this time that it can hardly answer in time."""
_SHORTEST_RETRY_S = 0.005
_LONGEST_RETRY_S = 5.0


@dataclass(frozen=True, slots=True)
class ScheduledBatch(Generic[T]):
    """The next work of the engine. Times are seconds on the clock of the engine's thread."""

    queue: Queue[T]
    requests: list[QueuedRequest[T]]
    lost: list[QueuedRequest[T]]
    """Requests that are not run: their deadline has passed, or can no longer be met."""
    started: float
    tokens: int = 0
    padded: int = 0
    """Tokens, padding included."""


class AdmissionController(Generic[T]):
    """Queues of one engine thread. Calls must not overlap.

    Args:
        client_weight: returns the weight of a client by its name.
    """

    def __init__(self, client_weight: ClientWeight = equal_weight) -> None:
        self._client_weight = client_weight
        self._queues: list[Queue[T]] = []
        self._busy_until: float | None = None
        """Predicted end of the batch that runs. None: no batch runs."""
        self._last_served = 0.0
        """`Queue.served` of the queue that ran last."""
        self._last_trial = -math.inf
        """When a request ran last that could hardly be answered in time."""

    @property
    def has_waiting(self) -> bool:
        """True while a request waits."""
        return any(queue.rows for queue in self._queues)

    @property
    def idle(self) -> bool:
        """True while no request waits and no batch runs."""
        return self._busy_until is None and not self.has_waiting

    def open(
        self, limits: BatchLimits, padded_tokens: Callable[[int, int], int], latency: EngineLatency | None = None
    ) -> dict[Priority, Queue[T]]:
        """Add the queues of one more model.

        Args:
            limits: limits of a batch and of each queue.
            padded_tokens: maps rows and longest row to the tokens that the engine computes.
            latency: latency of the engine. None: unknown.

        Returns:
            One queue for each priority.
        """
        latency = latency or EngineLatency()
        queues: dict[Priority, Queue[T]] = {}
        for priority, weight in WEIGHTS.items():
            queues[priority] = Queue(limits, latency, padded_tokens, weight, self._client_weight)
        self._queues.extend(queues.values())
        return queues

    def close(self, queues: Iterable[Queue[T]]) -> None:
        """Remove a model whose queues are empty."""
        closed = {*queues}
        self._queues = [queue for queue in self._queues if queue not in closed]

    def admit(
        self, queue: Queue[T], payload: T, length: int, deadline: float | None, now: float, client: str = ""
    ) -> QueuedRequest[T]:
        """Queue a request.

        Args:
            queue: queue of its model and priority.
            payload: what the engine is to run.
            length: tokens of the request.
            deadline: time after which the answer is useless, in seconds. None: none.
            now: current time, in seconds.
            client: who asks. The clients of a queue take turns.

        Raises:
            Overloaded: the queue is full.
            Unmeetable: the deadline would pass before the answer.
            DeadlineExceeded: the deadline has passed.
        """
        due = self.check(queue, length, deadline, now, client)
        displaced = queue.displace(length)
        if not queue.rows:
            # A queue that was empty must not catch up on engine time that it did not need.
            queue.served = max(queue.served, self._last_served)
        latest = math.inf if deadline is None else deadline
        request = QueuedRequest(queue, payload, length, now, due, latest, client=client, displaced=displaced)
        queue.push(request)
        return request

    def check(self, queue: Queue[T], length: int, deadline: float | None, now: float, client: str = "") -> float:
        """Return the time when a request that comes now would be due.

        Args:
            queue: queue of its model and priority.
            length: tokens of the request.
            deadline: time after which the answer is useless, in seconds. None: none.
            now: current time, in seconds.
            client: who asks.

        Raises:
            PalmServeError: the same errors as `admit`.
        """
        if deadline is not None and deadline <= now:
            raise DeadlineExceeded("the deadline has already passed")
        wait, longest_wait = self._waits(queue, *queue.before(client, length), now)
        _check_room(queue, length, wait, client)
        due = now + PATIENCE * wait
        if deadline is None:
            return due
        latency = queue.latency
        alone_s = latency.run.bound(queue.padded_tokens(1, length)) + latency.delivery.bound(length)
        # The request may run in a batch with others, which takes longer than it does alone.
        company = max(0.0, queue.next_batch_seconds(length) - latency.run.predict(length))
        latest_start = deadline - alone_s - company
        if now + longest_wait <= latest_start:
            return min(due, latest_start)
        if self._may_overtake(queue, length, latest_start, now, client):
            return latest_start
        if self._may_try(queue, length, deadline, now):
            return now
        remaining = f"{1e3 * (deadline - now):.0f} ms remain until its deadline"
        if deadline - alone_s <= now:
            raise _unmeetable(f"{remaining}, and one such request takes up to {1e3 * alone_s:.0f} ms", wait)
        raise _unmeetable(
            f"{remaining}, and the requests before it take {1e3 * wait:.0f} ms", now + longest_wait - latest_start
        )

    def next_batch(self, now: float) -> ScheduledBatch[T] | None:
        """Return the next work of an engine that is free. None: nothing waits."""
        waiting = [queue for queue in self._queues if queue.rows]
        if not waiting:
            return None
        queue = min(waiting, key=_turn)
        only_request = len(waiting) == 1 and queue.rows == 1
        requests, lost = queue.take(now, only_request)
        if not requests:
            return ScheduledBatch(queue, requests, lost, now)
        tokens = 0
        longest = 0
        for request in requests:
            tokens += request.length
            longest = max(longest, request.length)
        padded = queue.padded_tokens(len(requests), longest)
        self._busy_until = now + queue.latency.run.predict(padded)
        if only_request and self._busy_until > requests[0].deadline:
            self._last_trial = now
        self._last_served = queue.served
        return ScheduledBatch(queue, requests, lost, now, tokens, padded)

    def batch_finished(self, batch: ScheduledBatch[T], now: float) -> None:
        """Account for a batch that the engine has run, and learn from its duration."""
        seconds = now - batch.started
        self._busy_until = None
        batch.queue.served += seconds / batch.queue.weight
        batch.queue.latency.run.observe(batch.padded, seconds)

    def batch_failed(self, batch: ScheduledBatch[T], now: float) -> None:
        """Account for a batch on which the engine failed. The latency model learns nothing from it."""
        self._busy_until = None
        batch.queue.served += (now - batch.started) / batch.queue.weight

    def _busy(self, now: float) -> float:
        """Predict the seconds until the engine is free. A late batch is expected to need as long again as it is late."""
        return 0.0 if self._busy_until is None else abs(self._busy_until - now)

    def _waits(self, queue: Queue[T], rows: int, tokens: int, now: float) -> tuple[float, float]:
        """Predict the seconds until the first `rows` requests of a queue, with `tokens` tokens, have run.

        Each other queue takes the engine for what it has waiting, and for no more than its share.

        Args:
            queue: the queue.
            rows: requests before another one.
            tokens: their tokens.
            now: current time, in seconds.

        Returns:
            These seconds, and those that the other one must be able to wait for its batch if it has a deadline.
        """
        queue_seconds = queue.engine_seconds(rows, tokens)
        competing_seconds = 0.0
        for competitor in self._queues:
            if competitor is not queue and competitor.rows:
                share_seconds = queue_seconds * competitor.weight / queue.weight
                competing_seconds += min(competitor.engine_seconds(competitor.rows, competitor.tokens), share_seconds)
        busy = self._busy(now)
        earlier = queue_seconds + competing_seconds
        wait = busy + earlier
        if rows and queue.latency.run.overhead:
            # Requests that fill no batch run together with the next one, whatever their lengths.
            batches = queue.batches(rows, tokens)
            earlier = queue_seconds * math.floor(batches) / batches + competing_seconds
        # The batch that runs is not reordered.
        reordered = min((PATIENCE - 1) * earlier, _REORDERED_BATCHES * queue.next_batch_seconds(0))
        return wait, busy + earlier + reordered

    def _may_try(self, queue: Queue[T], length: int, deadline: float, now: float) -> bool:
        """Return True if a request may run although its answer may well be late, because the engine has nothing else to do.

        Without this, an engine that was slow for a while would never run again where all requests have short deadlines:
        only batches that run show that it is fast again.
        """
        if not self.idle:
            return False
        run = queue.latency.run
        padded = queue.padded_tokens(1, length)
        if now + run.predict(padded) <= deadline:
            return True
        return now + run.fastest.engine_seconds(padded) <= deadline and now >= self._last_trial + _TRIAL_INTERVAL_S

    def _may_overtake(self, queue: Queue[T], length: int, latest_start: float, now: float, client: str) -> bool:
        """True if a request can start by `latest_start` before requests that are due later, without making them late."""
        overtaken = queue.due_after(client, latest_start)
        if not overtaken or latest_start <= now:
            return False
        rows, tokens = queue.before(client, length)
        rows -= len(overtaken)
        for request in overtaken:
            tokens -= request.length
        _, longest_wait = self._waits(queue, rows, tokens, now)
        if now + longest_wait > latest_start:
            return False
        per_token = queue.costs.per_token
        wait, _ = self._waits(queue, rows + 1, tokens + length, now)
        start = now + wait
        # Competing queues and padding delay the overtaken requests by the same factor as the requests before them.
        stretch = (wait - self._busy(now)) / max(per_token * (tokens + length), 1e-9)
        for request in overtaken:
            if start > request.due:
                return False
            start += stretch * per_token * request.length
        return True


def _turn(queue: Queue[T]) -> tuple[float, float]:
    """Return a sort key: engine time per weight after the queue's next batch, and larger weights first among equals."""
    batch_seconds = min(queue.engine_seconds(queue.rows, queue.tokens), queue.next_batch_seconds(0))
    return queue.served + batch_seconds / queue.weight, -queue.weight


def _check_room(queue: Queue[T], length: int, wait: float, client: str) -> None:
    """Raise Overloaded if the queue is full, unless another client holds the place of this one."""
    if not queue.is_full(length) or queue.within_share(client, length):
        return
    limits = queue.limits
    if queue.rows >= limits.max_waiting:
        raise _overloaded(f"{queue.rows:,} requests are waiting, the limit is {limits.max_waiting:,}", wait / 2)
    raise _overloaded(f"{queue.tokens:,} tokens are waiting, the limit is {limits.max_waiting_tokens:,}", wait / 2)


def _overloaded(reason: str, seconds: float) -> Overloaded:
    retry_s = _retry_delay(seconds)
    return Overloaded(f"the queue is full: {reason}. Try again in {retry_s:.2f} s.", retry_s)


def displaced_error(request: QueuedRequest[T]) -> Overloaded:
    """Return the error of a request that lost its place in a full queue."""
    limit = request.queue.limits.max_waiting
    return _overloaded(f"other clients wait, and this one holds more than its share of {limit:,} places", 2.0)


def _unmeetable(reason: str, seconds: float) -> Unmeetable:
    retry_s = _retry_delay(seconds)
    return Unmeetable(f"the request cannot be answered in time: {reason}. Try again in {retry_s:.2f} s.", retry_s)


def _retry_delay(seconds: float) -> float:
    return min(max(seconds, _SHORTEST_RETRY_S), _LONGEST_RETRY_S)

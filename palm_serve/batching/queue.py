"""Request queue of one model and one priority: the most urgent request first, with a prediction of how long it takes to run."""

import bisect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from palm_serve.batching.latency import CLIP, LatencyModel
from palm_serve.batching.plan import BatchLimits, Costs, plan_batch

T = TypeVar("T")

_MEAN_RATE = 0.1
"""Weight of the last batch in the running means over batches."""
_DECAY = 0.01
"""Share of the tokens counted so far that each batch removes."""
_LARGEST_PADDING = 0.5


@dataclass(slots=True, eq=False)
class QueuedRequest(Generic[T]):
    """One request of a queue. Times are seconds on the clock of the engine's thread."""

    queue: "Queue[T]"
    payload: T
    length: int
    """Tokens."""
    arrived: float
    due: float
    """Latest time to start."""
    deadline: float
    waiting: bool = True
    abandoned: bool = False
    """True when nobody waits for the answer any more."""


@dataclass(slots=True)
class EngineLatency:
    """Latency models of one engine, shared by the priorities of a model."""

    run: LatencyModel = field(default_factory=LatencyModel)
    """Seconds that a batch holds the engine."""
    delivery: LatencyModel = field(default_factory=LatencyModel)
    """Seconds from the engine's result to the last answer of the batch."""


class Queue(Generic[T]):
    """Waiting requests in the order of `due`.

    Args:
        limits: limits of a batch and of the queue.
        latency: latency of the engine, shared by the priorities of a model.
        padded_tokens: maps rows and longest row to the tokens that the engine computes.
        weight: share of the engine, relative to other queues that are never empty.
    """

    def __init__(
        self,
        limits: BatchLimits,
        latency: EngineLatency,
        padded_tokens: Callable[[int, int], int],
        weight: float = 1.0,
    ) -> None:
        self.limits = limits
        self.latency = latency
        self.padded_tokens = padded_tokens
        self.weight = weight
        self.served = 0.0
        """Seconds of engine time per weight. The queue with the least runs next."""
        self.rows = 0
        self.tokens = 0
        self._requests: list[QueuedRequest[T]] = []
        self._strict_limits = replace(limits, free_padding=0)
        # Tokens of the last batches, without and with padding.
        self._tokens_run = self._padded_run = 0.0
        # Means over batches that left requests waiting.
        self._mean_rows = float(limits.max_rows)
        self._mean_tokens = limits.max_tokens / 2
        self._mean_padding = limits.max_padding

    @property
    def costs(self) -> Costs:
        """Predicted duration of one batch."""
        run = self.latency.run
        next_tokens = min(int(self._mean_tokens), self.tokens)
        return replace(run.costs, spread=CLIP * run.spread, delivery=self.latency.delivery.predict(next_tokens))

    def engine_seconds(self, rows: int, tokens: int) -> float:
        """Predict the engine time of `rows` requests with `tokens` tokens in total, in batches as they were lately."""
        if not rows:
            return 0.0
        costs = self.latency.run.costs
        batches = math.ceil(rows / self._mean_rows)
        return batches * costs.per_batch + costs.per_token * tokens / (1 - self._mean_padding)

    def next_batch_seconds(self, length: int) -> float:
        """Predict the engine time of the batch that one more request of `length` tokens would join.

        The batch holds everything that waits, up to the mean size of the last batches.
        """
        return self.latency.run.predict(max(length, min(int(self._mean_tokens), self.tokens + length)))

    def push(self, request: QueuedRequest[T]) -> None:
        """Insert a request by its due time."""
        bisect.insort(self._requests, request, key=_due)
        self.rows += 1
        self.tokens += request.length

    def withdraw(self, request: QueuedRequest[T]) -> None:
        """Remove a waiting request."""
        index = bisect.bisect_left(self._requests, request.due, key=_due)
        while self._requests[index] is not request:
            index += 1
        del self._requests[index]
        self._removed(request)

    def due_after(self, due: float) -> Sequence[QueuedRequest[T]]:
        """Return the requests that are due later than `due`."""
        return self._requests[bisect.bisect_right(self._requests, due, key=_due) :]

    def take(self, now: float) -> tuple[list[QueuedRequest[T]], list[QueuedRequest[T]]]:
        """Remove and return the requests of the next batch, and those that can no longer be answered in time."""
        padding_allowed = self._padded_run * (1 - self.limits.max_padding) <= self._tokens_run
        plan = plan_batch(self._requests, now, self.limits if padding_allowed else self._strict_limits, self.costs)
        batch = [self._requests[index] for index in plan.batch]
        lost = [self._requests[index] for index in plan.lost]
        removed = {*plan.batch, *plan.lost}
        self._requests = [request for index, request in enumerate(self._requests) if index not in removed]
        for request in (*batch, *lost):
            self._removed(request)
        if batch:
            self._record(batch)
        return batch, lost

    def drain(self) -> list[QueuedRequest[T]]:
        """Remove and return all requests."""
        requests = self._requests
        self._requests = []
        for request in requests:
            self._removed(request)
        return requests

    def _record(self, batch: Sequence[QueuedRequest[T]]) -> None:
        """Update the running means with a batch."""
        tokens = 0
        longest = 0
        for request in batch:
            tokens += request.length
            longest = max(longest, request.length)
        padded = len(batch) * longest
        self._tokens_run += tokens - _DECAY * self._tokens_run
        self._padded_run += padded - _DECAY * self._padded_run
        if self._requests:
            padding = min(1 - tokens / padded, _LARGEST_PADDING)
            self._mean_rows += _MEAN_RATE * (len(batch) - self._mean_rows)
            self._mean_tokens += _MEAN_RATE * (padded - self._mean_tokens)
            self._mean_padding += _MEAN_RATE * (padding - self._mean_padding)

    def _removed(self, request: QueuedRequest[T]) -> None:
        """Update the counts of the queue after a request was removed."""
        request.waiting = False
        self.rows -= 1
        self.tokens -= request.length


def _due(request: QueuedRequest[T]) -> float:
    return request.due

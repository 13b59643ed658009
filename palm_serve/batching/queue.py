"""What waits of one model and one priority, the most urgent first, and how long it will take to run."""

import bisect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from palm_serve.batching.latency import CLIP, LatencyModel
from palm_serve.batching.plan import BatchLimits, Costs, plan_batch

T = TypeVar("T")

_RATE = 0.1
"""Of the running means over batches."""
_FORGET = 0.01
"""Share of the padding so far that a batch makes forgotten."""


@dataclass(slots=True, eq=False)
class QueuedRequest(Generic[T]):
    """One request. Times are seconds on the dispatcher's clock."""

    queue: "Queue[T]"
    payload: T
    length: int
    arrived: float
    due: float
    deadline: float
    waiting: bool = True
    gone: bool = False
    """Nobody wants its answer any more."""


@dataclass(slots=True)
class EngineLatency:
    """What is known of one engine: its runs, and what comes behind them."""

    run: LatencyModel = field(default_factory=LatencyModel)
    """Seconds that a batch holds the engine."""
    rest: LatencyModel = field(default_factory=LatencyModel)
    """Seconds from the engine's result to the last answer of the batch."""


class Queue(Generic[T]):
    """Entries in the order of `due`.

    Args:
        limits: of batches and of the queue.
        timing: of the engine, shared by the priorities of a model.
        padded: rows and longest row -> tokens that the engine computes.
        weight: share of the engine, relative to other queues that are never empty.
    """

    def __init__(
        self, limits: BatchLimits, timing: EngineLatency, padded: Callable[[int, int], int], weight: float = 1.0
    ) -> None:
        self.limits = limits
        self.timing = timing
        self.padded = padded
        self.weight = weight
        self.served = 0.0
        """Seconds of engine per weight: who has least is next."""
        self.rows = 0
        self.tokens = 0
        self._entries: list[QueuedRequest[T]] = []
        self._strict = replace(limits, free_padding=0)
        # Tokens of the last batches, and how many were computed for them.
        self._tokens_run = self._padded_run = 0.0
        # Means over batches that left somebody waiting.
        self._fill = float(limits.max_rows)
        self._size = limits.max_tokens / 2
        self._padding = limits.max_padding

    @property
    def costs(self) -> Costs:
        """Of one batch, as the engine is known now."""
        run = self.timing.run
        return replace(
            run.costs, spread=CLIP * run.spread, rest=self.timing.rest.predict(min(int(self._size), self.tokens))
        )

    def work(self, rows: int, tokens: int) -> float:
        """Seconds of engine for so much, in batches as they have been lately."""
        if not rows:
            return 0.0
        costs = self.timing.run.costs
        return math.ceil(rows / self._fill) * costs.per_batch + costs.per_token * tokens / (1 - self._padding)

    def full_batch(self, length: int) -> float:
        """Seconds of the batch that one more entry of `length` could run in: of everything that waits, or as large as they have been lately."""
        return self.timing.run.predict(max(length, min(int(self._size), self.tokens + length)))

    def push(self, entry: QueuedRequest[T]) -> None:
        """Puts an entry in its place."""
        bisect.insort(self._entries, entry, key=_due)
        self.rows += 1
        self.tokens += entry.length

    def withdraw(self, entry: QueuedRequest[T]) -> None:
        """Takes an entry out that waits."""
        at = bisect.bisect_left(self._entries, entry.due, key=_due)
        while self._entries[at] is not entry:
            at += 1
        del self._entries[at]
        self._left(entry)

    def before(self, due: float) -> Sequence[QueuedRequest[T]]:
        """Those due then or sooner."""
        return self._entries[: bisect.bisect_right(self._entries, due, key=_due)]

    def after(self, due: float) -> Sequence[QueuedRequest[T]]:
        """Those due later."""
        return self._entries[bisect.bisect_right(self._entries, due, key=_due) :]

    def take(self, now: float) -> tuple[list[QueuedRequest[T]], list[QueuedRequest[T]]]:
        """The batch to run now, and the entries that can be answered no more. Neither waits any longer."""
        spare = self._padded_run * (1 - self.limits.max_padding) <= self._tokens_run
        plan = plan_batch(self._entries, now, self.limits if spare else self._strict, self.costs)
        batch, lost = ([self._entries[i] for i in chosen] for chosen in (plan.batch, plan.lost))
        taken = {*plan.batch, *plan.lost}
        self._entries = [entry for i, entry in enumerate(self._entries) if i not in taken]
        for entry in (*batch, *lost):
            self._left(entry)
        if batch:
            self._remember(batch)
        return batch, lost

    def drain(self) -> list[QueuedRequest[T]]:
        """Empties the queue: what waited."""
        entries, self._entries = self._entries, []
        for entry in entries:
            self._left(entry)
        return entries

    def _remember(self, batch: Sequence[QueuedRequest[T]]) -> None:
        tokens, padded = sum(entry.length for entry in batch), len(batch) * max(entry.length for entry in batch)
        self._tokens_run += tokens - _FORGET * self._tokens_run
        self._padded_run += padded - _FORGET * self._padded_run
        if self._entries:
            self._fill += _RATE * (len(batch) - self._fill)
            self._size += _RATE * (padded - self._size)
            self._padding += _RATE * (min(1 - tokens / padded, 0.5) - self._padding)

    def _left(self, entry: QueuedRequest[T]) -> None:
        entry.waiting = False
        self.rows -= 1
        self.tokens -= entry.length


def _due(entry: QueuedRequest[T]) -> float:
    return entry.due

"""Batch planning: which of the waiting requests run together. Pure functions: requests and the time go in, indices come out."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Limits of one batch and of the queue before it."""

    max_tokens: int = 4096
    """Padded tokens of a batch: rows times longest row. A single row may exceed it."""
    max_rows: int = 64
    max_padding: float = 0.1
    """Share of a batch's padded tokens that may be padding, 0 to 1."""
    free_padding: int = 32
    """Padding tokens that are always allowed, because they cost less than another run of the engine.

    This holds only while the last batches together keep to `max_padding`.
    """
    max_waiting: int = 2048
    """Waiting requests of each priority. Further requests are refused."""
    max_waiting_tokens: int = 131_072
    """Waiting tokens of each priority. Further requests are refused, except when the queue is empty."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds that a batch holds the engine: `per_batch + per_token * padded tokens`."""

    per_batch: float = 0.0
    per_token: float = 0.0
    spread: float = 0.0
    """Share by which a batch may take longer than predicted."""
    delivery: float = 0.0
    """Seconds from the end of the engine's run to the last answer of the batch."""
    overhead: float = 0.0
    """Seconds that a run costs by itself, where that is so much that padding is cheaper. Zero: the limits of padding hold."""

    def engine_seconds(self, padded_tokens: int) -> float:
        """Predict the seconds that a batch holds the engine."""
        return self.per_batch + self.per_token * padded_tokens

    def answer_seconds(self, padded_tokens: int) -> float:
        """Return the seconds until the answers of a batch, if it takes long."""
        return self.engine_seconds(padded_tokens) * (1 + self.spread) + self.delivery


class Schedulable(Protocol):
    """A waiting request, as far as a plan depends on it. Times are seconds on one clock."""

    @property
    def length(self) -> int:
        """Tokens of the request."""
        ...

    @property
    def due(self) -> float:
        """Latest time to start: before the deadline, and not long after its turn in order of arrival."""
        ...

    @property
    def deadline(self) -> float:
        """Time after which the answer is useless. Infinity: none."""
        ...


@dataclass(frozen=True, slots=True)
class WaitingRequest:
    """The smallest `Schedulable`: a length and two times."""

    length: int
    due: float = math.inf
    deadline: float = math.inf


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """Indices of the requests to run and to give up. All others keep waiting."""

    batch: tuple[int, ...]
    lost: tuple[int, ...]
    """Requests whose deadline has passed, or passes before they could be answered."""


def plan_batch(
    waiting: Sequence[Schedulable], now: float, limits: BatchLimits, costs: Costs, pressing: int = 0
) -> BatchPlan:
    """Plan the next batch: the most urgent request and others of about its length.

    A request may overtake only if all requests up to it can run, in order of `due`, before the most urgent one is due.
    So no request is late because of another. (With no time left these are the first `max_rows`, as in a batch in order
    of arrival.) Of them, the nearest in length join first, while tokens, rows, padding and all deadlines allow.

    Args:
        waiting: requests, the most urgent first.
        now: current time, in seconds.
        limits: limits of a batch.
        costs: predicted duration of a batch. Zeros: unknown.
        pressing: how many of the first requests run together whatever their padding.
    """
    window, lost = _window(waiting, now, limits, costs)
    if not window:
        return BatchPlan((), tuple(lost))
    batch = _Batch(window[0], waiting[window[0]])
    pressing_indices = [index for index in window[1:] if index < pressing]
    unhurried = [index for index in window[1:] if index >= pressing]
    for index in pressing_indices:
        if batch.takes(waiting[index], now, limits, costs, any_padding=True):
            batch.add(index, waiting[index])
    batch.free_padding = batch.padding
    length = batch.longest if pressing_indices else waiting[window[0]].length
    for index in sorted(unhurried, key=lambda index: abs(waiting[index].length - length)):
        if batch.takes(waiting[index], now, limits, costs):
            batch.add(index, waiting[index])
    return BatchPlan(tuple(sorted(batch.indices)), tuple(lost))


def plan_batches(lengths: Sequence[int], limits: BatchLimits) -> Iterator[list[int]]:
    """Divide requests that have no deadline into batches of similar length.

    Args:
        lengths: tokens of each request.
        limits: limits of a batch.

    Yields:
        The positions of the requests of a batch. Each request is in one batch.
    """
    remaining = list(range(len(lengths)))
    while remaining:
        plan = plan_batch([WaitingRequest(lengths[index]) for index in remaining], 0.0, limits, Costs())
        yield [remaining[position] for position in plan.batch]
        for position in reversed(plan.batch):
            del remaining[position]


class _Batch:
    """A batch that is being planned."""

    __slots__ = ("deadline", "free_padding", "indices", "longest", "tokens")

    def __init__(self, index: int, request: Schedulable) -> None:
        self.indices = [index]
        self.longest = request.length
        self.tokens = request.length
        self.deadline = request.deadline
        self.free_padding = 0
        """Padding tokens of the pressing requests, which do not count."""

    @property
    def padding(self) -> int:
        """Padding tokens."""
        return self.longest * len(self.indices) - self.tokens

    def takes(
        self, request: Schedulable, now: float, limits: BatchLimits, costs: Costs, any_padding: bool = False
    ) -> bool:
        """Return True if a request may join.

        Args:
            request: the request.
            now: current time, in seconds.
            limits: limits of a batch.
            costs: predicted duration of a batch.
            any_padding: true if padding does not matter.
        """
        rows = len(self.indices) + 1
        padded = max(self.longest, request.length) * rows
        padding = padded - self.tokens - request.length - self.free_padding
        return (
            rows <= limits.max_rows
            and padded <= limits.max_tokens
            and (
                any_padding
                or padding <= limits.free_padding
                or padding <= limits.max_padding * padded
                or self._gains(request.length, padded, costs)
            )
            and now + costs.answer_seconds(padded) <= min(self.deadline, request.deadline)
        )

    def _gains(self, length: int, padded: int, costs: Costs) -> bool:
        """Return True if runs are dear, and the engine computes at least as many tokens a second with one more request.

        Padding does not count as computed.

        Args:
            length: tokens of the request.
            padded: padded tokens of the batch with it.
            costs: predicted duration of a batch.
        """
        if not costs.overhead:
            return False
        padded_before = self.longest * len(self.indices)
        seconds = costs.overhead + costs.per_token * padded_before
        more_seconds = costs.per_token * (padded - padded_before)
        return length * seconds >= self.tokens * more_seconds

    def add(self, index: int, request: Schedulable) -> None:
        """Add a request, the `index`th of those that wait."""
        self.indices.append(index)
        self.longest = max(self.longest, request.length)
        self.tokens += request.length
        self.deadline = min(self.deadline, request.deadline)


def _window(
    waiting: Sequence[Schedulable], now: float, limits: BatchLimits, costs: Costs
) -> tuple[list[int], list[int]]:
    """Return the indices of requests that may share the next batch, and of lost requests before them."""
    window: list[int] = []
    lost: list[int] = []
    busy_until = now
    earliest_due = math.inf
    for index, request in enumerate(waiting):
        if request.deadline <= now or request.deadline < now + costs.engine_seconds(request.length):
            lost.append(index)
            continue
        earliest_due = min(earliest_due, request.due)
        busy_until += costs.per_batch / limits.max_rows + costs.per_token * request.length
        if busy_until > earliest_due and len(window) >= limits.max_rows:
            break
        window.append(index)
    return window, lost

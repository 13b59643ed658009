"""Batch planning: which of the waiting requests run together. Pure functions: requests and the time go in, indices come out."""

import math
from collections.abc import Sequence
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


def plan_batch(waiting: Sequence[Schedulable], now: float, limits: BatchLimits, costs: Costs) -> BatchPlan:
    """Plan the next batch: the most urgent request and others of about its length.

    A request may overtake only if all requests up to it can run, in order of `due`, before the most urgent one is due.
    So no request is late because of another. (With no time left these are the first `max_rows`, as in a batch in order
    of arrival.) Of them, the nearest in length join first, while tokens, rows, padding and all deadlines allow.

    Args:
        waiting: requests, the most urgent first.
        now: current time, in seconds.
        limits: limits of a batch.
        costs: predicted duration of a batch. Zeros: unknown.
    """
    window, lost = _window(waiting, now, limits, costs)
    if not window:
        return BatchPlan((), tuple(lost))
    first = waiting[window[0]]
    batch = [window[0]]
    longest = first.length
    tokens = first.length
    deadline = first.deadline
    for index in sorted(window[1:], key=lambda index: abs(waiting[index].length - first.length)):
        if len(batch) == limits.max_rows:
            break
        request = waiting[index]
        new_longest = max(longest, request.length)
        new_tokens = tokens + request.length
        new_deadline = min(deadline, request.deadline)
        padded = new_longest * (len(batch) + 1)
        padding = padded - new_tokens
        if (
            padded <= limits.max_tokens
            and (padding <= limits.free_padding or padding <= limits.max_padding * padded)
            and now + costs.answer_seconds(padded) <= new_deadline
        ):
            batch.append(index)
            longest = new_longest
            tokens = new_tokens
            deadline = new_deadline
    return BatchPlan(tuple(sorted(batch)), tuple(lost))


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

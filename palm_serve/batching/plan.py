"""The decision which entries run together. Pure: what waits and the time go in, indices come out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What one batch, and the queue before it, may hold."""

    max_tokens: int = 4096
    """Padded tokens of a batch: longest row times rows. A single row may exceed it."""
    max_rows: int = 64
    max_padding: float = 0.1
    """Share of a batch's padded tokens that may be padding, 0 to 1 ..."""
    free_padding: int = 32
    """... unless it is no more than this many tokens, which cost less than another run of the engine, and the last batches together keep to the
    share."""
    max_waiting: int = 2048
    """Requests that wait, of each priority; more are refused."""
    max_waiting_tokens: int = 131_072
    """Tokens that wait, of each priority; more are refused, but for a single request."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds that a batch holds the engine: `per_batch + per_token * padded tokens`."""

    per_batch: float = 0.0
    per_token: float = 0.0
    spread: float = 0.0
    """What it may take longer, as a share."""
    rest: float = 0.0
    """Seconds from then to its answers."""

    def of(self, padded_tokens: int) -> float:
        """Of one batch."""
        return self.per_batch + self.per_token * padded_tokens

    def answered(self, padded_tokens: int) -> float:
        """Until the answers of one batch, if it takes long."""
        return self.of(padded_tokens) * (1 + self.spread) + self.rest


class Schedulable(Protocol):
    """What a plan needs to know of an entry. Times are seconds on one clock."""

    @property
    def length(self) -> int:
        """Tokens."""
        ...

    @property
    def due(self) -> float:
        """When it should start at the latest: before its deadline, and not long after its turn in order of arrival."""
        ...

    @property
    def deadline(self) -> float:
        """When its answer is of no use any more; infinity: never."""
        ...


@dataclass(frozen=True, slots=True)
class WaitingRequest:
    """An entry that is nothing but waiting."""

    length: int
    due: float = math.inf
    deadline: float = math.inf


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """A decision about the entries that wait, by index. All others wait on."""

    batch: tuple[int, ...]
    lost: tuple[int, ...]
    """Their deadline has passed, or passes before they could be answered."""


def plan_batch(waiting: Sequence[Schedulable], now: float, limits: BatchLimits, costs: Costs) -> BatchPlan:
    """The batch to run now: the most urgent entry and those of about its length.

    Only as many entries may overtake as can all run before the most urgent one is due, in the order of `due`: so none misses its time for
    another's sake. (With no time left those are the first `max_rows`, which a batch in order of arrival would hold too.) Of these the nearest
    in length join, the more urgent first, as long as tokens, rows, padding and the deadlines of all members allow.

    Args:
        waiting: the most urgent first.
        now: seconds.
        limits: what a batch may hold.
        costs: how long it will take; zeros: not known.
    """
    window, lost = _window(waiting, now, limits, costs)
    if not window:
        return BatchPlan((), tuple(lost))
    first = waiting[window[0]]
    chosen, longest, tokens, end = [window[0]], first.length, first.length, first.deadline
    for i in sorted(window[1:], key=lambda i: abs(waiting[i].length - first.length)):
        if len(chosen) == limits.max_rows:
            break
        entry = waiting[i]
        width, total, soonest = max(longest, entry.length), tokens + entry.length, min(end, entry.deadline)
        padded = width * (len(chosen) + 1)
        padding = padded - total
        if (
            padded <= limits.max_tokens
            and (padding <= limits.free_padding or padding <= limits.max_padding * padded)
            and now + costs.answered(padded) <= soonest
        ):
            chosen.append(i)
            longest, tokens, end = width, total, soonest
    return BatchPlan(tuple(sorted(chosen)), tuple(lost))


def _window(
    waiting: Sequence[Schedulable], now: float, limits: BatchLimits, costs: Costs
) -> tuple[list[int], list[int]]:
    """Indices of the entries that may share the next batch, and of those that are lost before them."""
    window: list[int] = []
    lost: list[int] = []
    spent, due = now, math.inf
    for i, entry in enumerate(waiting):
        if entry.deadline <= now or entry.deadline < now + costs.of(entry.length):
            lost.append(i)
            continue
        due = min(due, entry.due)
        spent += costs.per_batch / limits.max_rows + costs.per_token * entry.length
        if spent > due and len(window) >= limits.max_rows:
            break
        window.append(i)
    return window, lost

"""A simulated server on a machine whose cores it shares: the real admission controller, an engine and an event loop that are
suspended now and then, and a clock that is a number.
"""

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from palm_serve.batching import AdmissionController, BatchLimits
from palm_serve.errors import DeadlineExceeded, Overloaded
from palm_serve.types import Priority

PERIOD_S = 0.1
"""Period of a quota of processor time, as Linux has it."""
_SHORTEST_PIECE_S = 0.003
_LONGEST_PIECE_S = 0.02


class Processor:
    """Processor time of one thread: seconds at full speed, between pieces in which others run.

    Args:
        others: busy processes for each core.
        chance: randomness of the pieces.
    """

    def __init__(self, others: float, chance: random.Random) -> None:
        self._others = others
        self._chance = chance
        self._at = 0.0
        self._runs = True
        self._ends = chance.uniform(_SHORTEST_PIECE_S, _LONGEST_PIECE_S) if others else math.inf

    def finish(self, start: float, seconds: float) -> float:
        """Return when work of some seconds is done that begins at `start`. Starts must not decrease."""
        now = max(start, self._at)
        while True:
            while self._ends <= now:
                self._next()
            if not self._runs:
                now = self._ends
                continue
            if now + seconds <= self._ends:
                self._at = now + seconds
                return self._at
            seconds -= self._ends - now
            now = self._ends

    def _next(self) -> None:
        self._runs = not self._runs
        piece_s = self._chance.uniform(_SHORTEST_PIECE_S, _LONGEST_PIECE_S)
        self._ends += piece_s if self._runs else piece_s * self._others


class Quota:
    """A quota of processor time that the engine's threads and the event loop share: in each period, all stop when it is spent.

    Args:
        cores: seconds of processor time for each second.
        engine_cores: cores that the engine uses while it runs.
    """

    def __init__(self, cores: float, engine_cores: float = 2.0) -> None:
        self._budget_s = cores * PERIOD_S
        self._engine_cores = engine_cores
        self._period = -1
        self._left_s = 0.0

    def engine(self, start: float, seconds: float) -> float:
        """Return when the engine's work is done."""
        return self._spend(start, seconds, self._engine_cores)

    def loop(self, start: float, seconds: float) -> float:
        """Return when the event loop's work is done."""
        return self._spend(start, seconds, 1.0)

    def _spend(self, start: float, seconds: float, cores: float) -> float:
        now = start
        while True:
            period = math.floor(now / PERIOD_S + 1e-9)
            if period > self._period:
                self._period = period
                self._left_s = self._budget_s
            # A thread that is still in an earlier period has what is left of it: both look ahead by one piece of work.
            ends = (period + 1) * PERIOD_S
            available_s = min(self._left_s / cores, ends - now)
            if seconds <= available_s:
                self._left_s -= seconds * cores
                return now + seconds
            self._left_s -= available_s * cores
            seconds -= available_s
            now = ends


@dataclass(frozen=True, slots=True)
class Machine:
    """What the server has of a machine of two cores."""

    name: str
    others: int = 0
    """Busy processes beside it."""
    quota_cores: float = math.inf
    stalls: float = 0.0
    """Times that a batch waits for a thread which the machine has suspended, on average. Each operator waits for all threads."""

    def threads(self, seed: int) -> tuple[Callable[[float, float], float], Callable[[float, float], float]]:
        """Return the functions that tell when work of the engine and of the event loop is done."""
        if math.isfinite(self.quota_cores):
            quota = Quota(self.quota_cores)
            return quota.engine, quota.loop
        # The engine waits for its slower thread, so it has what the busier core leaves. The loop goes first on a core.
        engine = Processor(self.others, random.Random(f"{seed} engine"))
        loop = Processor(self.others / 4, random.Random(f"{seed} loop"))
        chance = random.Random(f"{seed} stalls")

        def finish(start: float, seconds: float) -> float:
            ends = engine.finish(start, seconds)
            left = chance.expovariate(1.0)
            while left < self.stalls:
                ends += chance.uniform(_SHORTEST_PIECE_S, _LONGEST_PIECE_S)
                left += chance.expovariate(1.0)
            return ends

        return finish, loop.finish


MACHINES = (
    Machine("alone"),
    Machine("one other", others=1),
    Machine("two others", others=2),
    Machine("quota", quota_cores=1.5),
)
DEAR_RUNS = (Machine("one other, dear runs", others=1, stalls=4), Machine("two others, dear runs", others=2, stalls=8))
"""Machines on which every run of the engine, however short, waits for suspended threads."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of work: of a batch on two cores that nobody else uses, and on the event loop."""

    per_batch: float = 0.003
    per_token: float = 2.8e-4
    noise: float = 0.05
    call: float = 3e-4
    answer: float = 2e-4
    refusal: float = 2e-4


@dataclass(frozen=True, slots=True)
class Call:
    """A call: when it comes, its tokens, and the seconds until its deadline."""

    at: float
    length: int
    within: float


@dataclass(slots=True)
class Outcome:
    """What became of the calls."""

    in_time: int = 0
    accepted: int = 0
    late: int = 0
    """Accepted calls that were not answered in time."""
    refusal_s: list[float] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    busy_s: float = 0.0

    @property
    def kept(self) -> float:
        """Share of the accepted calls that were answered in time."""
        return 1 - self.late / max(1, self.accepted)


class Policy(Protocol):
    """Decides which calls are accepted and what runs next. Calls have numbers."""

    def admit(self, call: int, length: int, deadline: float, now: float) -> bool:
        """Return True if a call is accepted."""

    def leave(self, call: int) -> bool:
        """Remove a call whose deadline has passed. Return True if it waited."""

    def next_batch(self, now: float) -> tuple[list[int], list[int], int] | None:
        """Return the calls that run, those that are given up, and the padded tokens. None: no call waits."""

    def finished(self, now: float) -> None:
        """Learn that the batch has run."""

    def delivered(self, seconds: float) -> None:
        """Learn how long the answers of a batch took."""


class Controlled:
    """The real controller.

    Args:
        limits: limits of the queue.
        deadlines: false if the controller learns no deadline, so that nothing but the queue's length counts.
    """

    def __init__(self, limits: BatchLimits | None = None, deadlines: bool = True) -> None:
        self.controller: AdmissionController[int] = AdmissionController()
        self.queue = self.controller.open(limits or BatchLimits(), lambda rows, length: rows * length)[
            Priority.INTERACTIVE
        ]
        self._deadlines = deadlines
        self._waiting: dict[int, Any] = {}
        self._batch: Any = None
        self._undelivered: deque[int] = deque()

    def admit(self, call: int, length: int, deadline: float, now: float) -> bool:
        try:
            request = self.controller.admit(self.queue, call, length, deadline if self._deadlines else None, now)
        except (Overloaded, DeadlineExceeded):
            return False
        self._waiting[call] = request
        return True

    def leave(self, call: int) -> bool:
        request = self._waiting.pop(call, None)
        if request is None or not request.waiting:
            return False
        request.queue.withdraw(request)
        return True

    def next_batch(self, now: float) -> tuple[list[int], list[int], int] | None:
        batch = self.controller.next_batch(now)
        if batch is None:
            return None
        self._batch = batch
        for request in batch.requests:
            self._waiting.pop(request.payload, None)
        lost = [request.payload for request in batch.lost]
        return [request.payload for request in batch.requests], lost, batch.padded

    def finished(self, now: float) -> None:
        self.controller.batch_finished(self._batch, now)
        self._undelivered.append(self._batch.padded)

    def delivered(self, seconds: float) -> None:
        self.queue.latency.delivery.observe(self._undelivered.popleft(), seconds)


class InOrder:
    """A queue of fixed length, in order of arrival, without any prediction. Calls whose deadline has passed are dropped."""

    def __init__(self, max_waiting: int, limits: BatchLimits | None = None) -> None:
        self._max_waiting = max_waiting
        self._limits = limits or BatchLimits()
        self._queue: deque[tuple[int, int, float]] = deque()

    def admit(self, call: int, length: int, deadline: float, now: float) -> bool:
        if len(self._queue) >= self._max_waiting or deadline <= now:
            return False
        self._queue.append((call, length, deadline))
        return True

    def leave(self, call: int) -> bool:
        for entry in self._queue:
            if entry[0] == call:
                self._queue.remove(entry)
                return True
        return False

    def next_batch(self, now: float) -> tuple[list[int], list[int], int] | None:
        if not self._queue:
            return None
        batch: list[int] = []
        lost: list[int] = []
        longest = 0
        while self._queue:
            call, length, deadline = self._queue[0]
            if deadline <= now:
                lost.append(call)
            elif (
                len(batch) == self._limits.max_rows or max(longest, length) * (len(batch) + 1) > self._limits.max_tokens
            ):
                break
            else:
                batch.append(call)
                longest = max(longest, length)
            self._queue.popleft()
        return batch, lost, longest * len(batch)

    def finished(self, now: float) -> None:
        """Learn nothing."""

    def delivered(self, seconds: float) -> None:
        """Learn nothing."""


def lengths(chance: random.Random) -> int:
    """3 to 40 tokens, as turns of a dialogue have them."""
    return min(40, 3 + int(chance.expovariate(1 / 10)))


class _Run:
    """One simulation. See `simulate`."""

    def __init__(
        self, machine: Machine, policy: Policy, arrivals: Sequence[Call], costs: Costs, seed: int, since: float
    ) -> None:
        self._engine_done, self._loop_done = machine.threads(seed)
        self._chance = random.Random(f"{seed} noise")
        self._policy = policy
        self._arrivals = arrivals
        self._costs = costs
        self._since = since
        self._outcome = Outcome()
        self._events: list[tuple[float, int, str, Any]] = []
        self._numbers = itertools.count()
        self._tasks: deque[tuple[str, Any]] = deque()
        """Work of the event loop, which does one thing after the other."""
        self._loop_busy = False
        self._engine_busy = False

    def outcome(self) -> Outcome:
        handlers = {
            "arrives": self._arrives,
            "batch": self._batch_ends,
            "expires": self._expires,
            "loop": self._loop_ends,
        }
        for number, call in enumerate(self._arrivals):
            self._at(call.at, "arrives", number)
        while self._events:
            now, _, kind, what = heapq.heappop(self._events)
            handlers[kind](what, now)
            self._start_loop(now)
            self._start_engine(now)
        return self._outcome

    def _at(self, when: float, kind: str, what: Any) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), kind, what))

    def _counts(self, number: int) -> bool:
        return self._arrivals[number].at >= self._since

    def _arrives(self, number: int, now: float) -> None:
        self._tasks.append(("call", number))

    def _batch_ends(self, batch: list[int], now: float) -> None:
        self._engine_busy = False
        self._policy.finished(now)
        for number in batch:
            self._tasks.append(("answer", number))
        self._tasks.append(("delivered", now))

    def _expires(self, number: int, now: float) -> None:
        if self._policy.leave(number):
            self._outcome.late += self._counts(number)

    def _loop_ends(self, task: tuple[str, Any], now: float) -> None:
        self._loop_busy = False
        kind, what = task
        if kind == "delivered":
            self._policy.delivered(now - what)
            return
        call = self._arrivals[what]
        counts = self._counts(what)
        expires = call.at + call.within
        if kind == "call":
            if self._policy.admit(what, call.length, expires, now):
                self._outcome.accepted += counts
                self._at(expires, "expires", what)
            else:
                self._tasks.appendleft(("refusal", what))
        elif kind == "refusal" and counts:
            self._outcome.refusal_s.append(now - call.at)
        elif kind == "lost" or now > expires:
            self._outcome.late += counts
        elif kind == "answer":
            self._outcome.in_time += counts

    def _start_loop(self, now: float) -> None:
        if self._loop_busy or not self._tasks:
            return
        task = self._tasks.popleft()
        costs = self._costs
        seconds = {"call": costs.call, "refusal": costs.refusal, "lost": costs.refusal, "answer": costs.answer}
        self._loop_busy = True
        self._at(self._loop_done(now, seconds.get(task[0], 0.0)), "loop", task)

    def _start_engine(self, now: float) -> None:
        while not self._engine_busy:
            planned = self._policy.next_batch(now)
            if planned is None:
                return
            batch, lost, padded = planned
            for number in lost:
                self._tasks.append(("lost", number))
            if not batch:
                continue
            seconds = self._costs.per_batch + self._costs.per_token * padded
            ends = self._engine_done(now, seconds * self._chance.lognormvariate(0, self._costs.noise))
            self._engine_busy = True
            self._outcome.rows.append(len(batch))
            self._outcome.busy_s += ends - now
            self._at(ends, "batch", batch)


def simulate(
    machine: Machine,
    policy: Policy,
    arrivals: Sequence[Call],
    costs: Costs | None = None,
    seed: int = 1,
    since: float = 0.0,
) -> Outcome:
    """Run calls through a policy on a machine.

    Args:
        machine: the machine.
        policy: accepts calls.
        arrivals: the calls, by time.
        costs: seconds of work.
        seed: of the machine's randomness.
        since: calls that come earlier do not count.
    """
    return _Run(machine, policy, arrivals, costs or Costs(), seed, since).outcome()


def poisson(rate: float, seconds: float, within: float, seed: int = 3) -> list[Call]:
    """Draw calls that come independently of each other."""
    chance = random.Random(seed)
    now = chance.expovariate(rate)
    arrivals = []
    while now < seconds:
        arrivals.append(Call(now, lengths(chance), within))
        now += chance.expovariate(rate)
    return arrivals


def capacity(machine: Machine, count: int = 1500) -> float:
    """Return the calls a second that are answered where many wait."""
    chance = random.Random(5)
    arrivals = [Call(0.0, lengths(chance), math.inf) for _ in range(count)]
    return count / simulate(machine, Controlled(), arrivals).busy_s

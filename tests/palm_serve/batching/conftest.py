"""A deterministic simulator: the real admission controller before an engine that only takes time, on a clock that is a number."""

import heapq
import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import pytest

from palm_serve.batching import AdmissionController, BatchLimits
from palm_serve.errors import DeadlineExceeded, Overloaded
from palm_serve.types import Priority


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request. `within` and `leaves` are seconds after `at`: the deadline, and when the caller gives up."""

    at: float
    length: int
    within: float = math.inf
    leaves: float = math.inf
    priority: Priority = Priority.INTERACTIVE
    model: int = 0
    client: str = ""


@dataclass(frozen=True, slots=True)
class Engine:
    """Takes `per_batch + per_token * padded tokens` seconds, times a log-normal disturbance."""

    per_batch: float = 0.002
    per_token: float = 3e-5
    noise: float = 0.05

    def seconds(self, padded: int, chance: random.Random) -> float:
        return (self.per_batch + self.per_token * padded) * chance.lognormvariate(0, self.noise)


@dataclass(slots=True)
class Report:
    """Outcome of each arrival, by its number."""

    waits: dict[int, float] = field(default_factory=dict)
    answered: dict[int, float] = field(default_factory=dict)
    refused: dict[int, float] = field(default_factory=dict)
    """Retry delay of each refused arrival, in seconds."""
    lost: set[int] = field(default_factory=set)
    left: set[int] = field(default_factory=set)
    """Arrivals that gave up while they waited."""
    rows: int = 0
    wasted: int = 0
    late: int = 0
    tokens: int = 0
    padded: int = 0
    batches: int = 0
    seconds: float = 0.0
    """Seconds that the engine was busy."""

    @property
    def padding(self) -> float:
        return 1 - self.tokens / self.padded


def dialogue_lengths(chance: random.Random) -> int:
    """3 to 40 tokens, and 2 in 100 of 128 to 256: turns of a dialogue."""
    return chance.randint(128, 256) if chance.random() < 0.02 else min(40, 3 + int(chance.expovariate(1 / 10)))


def poisson(rate: float, count: int, seed: int, start: float = 0.0, **fields: object) -> list[Arrival]:
    """Arrivals at random times, `rate` a second."""
    chance, at, arrivals = random.Random(seed), start, []
    for _ in range(count):
        at += chance.expovariate(rate)
        arrivals.append(Arrival(at, dialogue_lengths(chance), **fields))
    return arrivals


class Simulator:
    """Runs arrivals through admission controllers. `limits` are of every queue."""

    def __init__(self, engine: Engine | None = None, limits: BatchLimits | None = None, seed: int = 1) -> None:
        self.engine = engine or Engine()
        self.limits = limits or BatchLimits()
        self._seed = seed

    poisson = staticmethod(poisson)

    def run(self, arrivals: Sequence[Arrival], report: Report | None = None) -> Report:
        """The real controller; a batch starts whenever the engine is free and something waits."""
        chance, report = random.Random(self._seed), report or Report()
        controller: AdmissionController[int] = AdmissionController()
        models = [
            controller.open(self.limits, lambda rows, length: rows * length)
            for _ in range(1 + max(arrival.model for arrival in arrivals))
        ]
        leaving: list[tuple[float, int, object]] = []
        numbers = itertools.count()
        free_at, batch, now, coming = math.inf, None, 0.0, 0
        while coming < len(arrivals) or batch is not None or controller.has_waiting:
            arrives = arrivals[coming].at if coming < len(arrivals) else math.inf
            leaves = leaving[0][0] if leaving else math.inf
            now = max(now, min(arrives, leaves, free_at))
            if now == free_at:
                assert batch is not None
                controller.batch_finished(batch, now)
                for request in batch.requests:
                    report.answered[request.payload] = now
                    report.late += request.abandoned or request.deadline < now
                free_at, batch = math.inf, None
            elif leaving and now >= leaves:
                _, _, request = heapq.heappop(leaving)
                request.abandoned = True
                if request.waiting:
                    request.queue.withdraw(request)
                    report.left.add(request.payload)
            else:
                arrival = arrivals[coming]
                deadline = None if math.isinf(arrival.within) else now + arrival.within
                try:
                    queue = models[arrival.model][arrival.priority]
                    request = controller.admit(queue, coming, arrival.length, deadline, now, arrival.client)
                    for displaced in request.displaced:
                        displaced.abandoned = True
                        report.refused[displaced.payload] = 0.0
                    gives_up = min(arrival.leaves, arrival.within)
                    if not math.isinf(gives_up):
                        heapq.heappush(leaving, (now + gives_up, next(numbers), request))
                except Overloaded as refusal:
                    report.refused[coming] = refusal.retry_after_s
                except DeadlineExceeded:
                    report.lost.add(coming)
                coming += 1
                if coming < len(arrivals) and arrivals[coming].at <= now:
                    continue
            while batch is None and (planned := controller.next_batch(now)) is not None:
                report.lost.update(request.payload for request in planned.lost)
                if planned.requests:
                    batch = planned
                    seconds = self.engine.seconds(planned.padded, chance)
                    free_at = now + seconds
                    report.batches += 1
                    report.rows += len(planned.requests)
                    report.tokens += planned.tokens
                    report.padded += planned.padded
                    report.seconds += seconds
                    for request in planned.requests:
                        report.waits[request.payload] = now - request.arrived
                        report.wasted += request.abandoned or request.deadline <= now
        return report

    def closed_loop(
        self, callers: int, count: int, lengths: Callable[[random.Random], int]
    ) -> tuple[float, list[float]]:
        """Answers a second, and seconds of each answer, where each caller asks again after an answer."""
        chance = random.Random(self._seed)
        arrivals = [Arrival(1e-5 * number, lengths(chance)) for number in range(callers)]

        class Answers(dict[int, float]):
            def __setitem__(self, number: int, at: float) -> None:
                super().__setitem__(number, at)
                if len(arrivals) < count:
                    arrivals.append(Arrival(at, lengths(chance)))

        answered = self.run(arrivals, Report(answered=Answers())).answered
        counted = range(count // 5, count - callers)  # neither the start nor the end
        ends = sorted(answered[number] for number in counted)
        seconds = [answered[number] - arrivals[number].at for number in counted]
        return (len(ends) - 1) / (ends[-1] - ends[0]), seconds

    def in_order(self, arrivals: Sequence[Arrival]) -> Report:
        """The reference: batches in the order of arrival, as many as tokens and rows allow, whatever the padding."""
        chance, report, now, begin = random.Random(self._seed), Report(), 0.0, 0
        while begin < len(arrivals):
            now = max(now, arrivals[begin].at)
            end, longest = begin, 0
            while end < len(arrivals) and arrivals[end].at <= now and end - begin < self.limits.max_rows:
                width = max(longest, arrivals[end].length)
                if end > begin and width * (end - begin + 1) > self.limits.max_tokens:
                    break
                longest, end = width, end + 1
            for number in range(begin, end):
                report.waits[number] = now - arrivals[number].at
            padded = longest * (end - begin)
            report.padded += padded
            report.tokens += sum(arrival.length for arrival in arrivals[begin:end])
            report.batches += 1
            seconds = self.engine.seconds(padded, chance)
            report.seconds += seconds
            now += seconds
            for number in range(begin, end):
                report.answered[number] = now
            begin = end
        return report

    def capacity(self) -> float:
        """Requests a second that the controller answers where something always waits."""
        arrivals = [replace(arrival, at=0.0) for arrival in poisson(1.0, 1500, seed=99)]
        report = self.run(arrivals)
        return len(report.answered) / max(report.answered.values())


@pytest.fixture(scope="session")
def make_simulator() -> Callable[..., Simulator]:
    """`make_simulator(engine=..., limits=..., seed=...)`."""
    return Simulator


@pytest.fixture(scope="session")
def make_engine() -> Callable[..., Engine]:
    """`make_engine(per_batch=..., per_token=..., noise=...)`."""
    return Engine


@pytest.fixture
def simulator() -> Simulator:
    """A simulator of a small model on two cores."""
    return Simulator()

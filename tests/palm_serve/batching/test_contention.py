"""Admission on a machine that the server shares: as many answers in time as the best limit of the queue would give there."""

import pytest

from palm_serve.batching import AdmissionController, BatchLimits
from palm_serve.errors import Unmeetable
from palm_serve.types import Priority
from tests.palm_serve.batching.contended_machine import (
    DEAR_RUNS,
    MACHINES,
    Controlled,
    InOrder,
    Machine,
    Outcome,
    capacity,
    poisson,
    simulate,
)

LOADS = (0.5, 1.0, 3.0)
LIMITS = (2, 4, 8, 16, 32, 64, 128, 512)
PROMISE = 0.95
"""Share of the accepted calls that must be answered in time on a shared machine."""


def outcomes(
    machine: Machine, load: float, within: float, limits: tuple[int, ...] = LIMITS, seconds: float = 20.0
) -> tuple[Outcome, list[Outcome]]:
    """Return what our admission makes of a load, and what queues of fixed lengths make of it."""
    arrivals = poisson(load * capacity(machine), seconds, within)
    since = seconds / 5
    static = []
    for limit in limits:
        unaware = Controlled(BatchLimits(max_waiting=limit), deadlines=False)
        static += [simulate(machine, policy, arrivals, since=since) for policy in (unaware, InOrder(limit))]
    return simulate(machine, Controlled(), arrivals, since=since), static


def check(machine: Machine, own: Outcome, static: list[Outcome]) -> None:
    best = max(outcome.in_time for outcome in static)
    assert own.in_time >= 0.95 * best
    assert own.kept >= (0.99 if machine.name == "alone" else PROMISE)
    if own.refusal_s:
        assert sorted(own.refusal_s)[len(own.refusal_s) // 2] <= 0.01


@pytest.mark.slow
@pytest.mark.parametrize("within", [1.0, 0.2])
@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
def test_shared_machine_answers_as_many_as_the_best_queue_limit(machine: Machine, load: float, within: float) -> None:
    check(machine, *outcomes(machine, load, within))


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
def test_overloaded_shared_machine_answers_as_many_as_the_best_queue_limit(machine: Machine) -> None:
    check(machine, *outcomes(machine, 3.0, 1.0, limits=(16, 32, 64), seconds=10.0))


@pytest.mark.parametrize("load", [1.0, 3.0])
@pytest.mark.parametrize("machine", DEAR_RUNS, ids=lambda machine: machine.name)
def test_dear_runs_are_filled(machine: Machine, load: float) -> None:
    """Batches of two rows answered half as many, and nobody learned that larger ones cost little more."""
    own, static = outcomes(machine, load, 1.0, limits=(4, 8, 16, 24, 32))
    honest = [outcome.in_time for outcome in static if outcome.kept >= PROMISE]
    assert own.in_time >= 0.9 * max(honest)
    assert own.kept >= PROMISE
    assert sum(own.rows) >= 4 * len(own.rows)


def test_engine_that_was_slow_is_tried_again() -> None:
    """All calls have short deadlines. Once batches took longer than that, none ran, so none showed that the engine is fast again."""
    controller: AdmissionController[int] = AdmissionController()
    queue = controller.open(BatchLimits(), lambda rows, length: rows * length)[Priority.INTERACTIVE]
    answered = []
    free_at = 0.0
    for number in range(400):
        now = 0.05 * number
        if now < free_at:
            continue
        try:
            controller.admit(queue, number, 10, now + 0.2, now)
        except Unmeetable:
            continue
        batch = controller.next_batch(now)
        assert batch is not None
        free_at = now + (1.0 if 2 < now < 8 else 0.005)
        controller.batch_finished(batch, free_at)
        answered.append(now)
    assert sum(2 < now < 8 for now in answered) <= 6
    assert sum(now > 10 for now in answered) == 199, "all are answered again"


def test_engine_that_cannot_be_that_fast_is_not_tried() -> None:
    controller: AdmissionController[int] = AdmissionController()
    queue = controller.open(BatchLimits(), lambda rows, length: rows * length)[Priority.INTERACTIVE]
    for number in range(20):
        controller.admit(queue, number, 10, number + 0.5, number)
        batch = controller.next_batch(number)
        assert batch is not None
        controller.batch_finished(batch, number + 0.01)
    for number in range(20, 25):
        with pytest.raises(Unmeetable, match="takes up to"):
            controller.admit(queue, number, 10, number + 0.004, number)

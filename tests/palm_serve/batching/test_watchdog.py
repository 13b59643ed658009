"""The watchdog of the engine thread, and what a run that was stopped means for its model."""

import asyncio
import threading
import time
from collections.abc import Sequence

import pytest

from palm_serve.batching import EngineThread, Scheduler
from palm_serve.batching.watchdog import Watchdog
from palm_serve.errors import EngineTimeout, Unavailable

PATIENCE_S = 120.0


def test_watchdog_interrupts_long_work_and_reports_it_once() -> None:
    interrupted, hung = threading.Event(), threading.Semaphore(0)
    watchdog = Watchdog(0.1, hung.release)
    watchdog.start()
    watchdog.begin(interrupted.set)
    assert interrupted.wait(PATIENCE_S)
    assert watchdog.overdue
    assert hung.acquire(timeout=PATIENCE_S), "it did not end"
    watchdog.end()
    assert not watchdog.overdue
    watchdog.stop()
    assert not hung.acquire(blocking=False)


def test_work_that_ends_as_it_becomes_overdue_is_not_overdue_for_good() -> None:
    watchdog = Watchdog(0.1)
    watchdog.start()
    watchdog.begin(lambda: None)
    watchdog.end()
    watchdog.overdue = True  # as if its thread had been interrupted between the look and the assignment
    end = time.monotonic() + PATIENCE_S
    while watchdog.overdue:
        assert time.monotonic() < end
        time.sleep(0.01)
    watchdog.stop()


def test_watchdog_leaves_short_work_alone() -> None:
    """Each piece begins anew, also if there is no pause between two."""
    interrupts: list[int] = []
    watchdog = Watchdog(3600)
    watchdog.start()
    for number in range(1000):
        watchdog.begin(lambda number=number: interrupts.append(number))
        watchdog.end()
    watchdog.interrupt()
    assert interrupts == [], "nothing runs"
    watchdog.begin(lambda: interrupts.append(-1))
    watchdog.interrupt()
    assert interrupts == [-1]
    watchdog.stop()


def test_watchdog_survives_an_interrupt_that_fails() -> None:
    hung = threading.Event()
    watchdog = Watchdog(0.1, hung.set)
    watchdog.start()
    watchdog.begin(lambda: 1 / 0)
    assert hung.wait(PATIENCE_S)
    watchdog.stop()


def test_stopped_run_fails_its_batch_and_the_model_until_its_trial() -> None:
    """One is enough, because the next one would hold the engine of all models for as long."""
    interrupted, tried, works = threading.Event(), threading.Event(), threading.Event()

    def run(payloads: Sequence[int]) -> Sequence[int]:
        if payloads == [13]:
            assert interrupted.wait(PATIENCE_S)
            raise EngineTimeout("it took too long")
        return payloads

    def probe() -> None:
        tried.set()
        if not works.is_set():
            raise RuntimeError("still broken")

    async def scenario() -> None:
        engine_thread = EngineThread(run_limit_s=0.2)
        broken: Scheduler[int, Sequence[int], int] = Scheduler(
            engine_thread, run, lambda payloads, values, waits: values, probe=probe, interrupt=interrupted.set
        )
        other: Scheduler[int, Sequence[int], int] = Scheduler(
            engine_thread, lambda payloads: payloads, lambda payloads, values, waits: values
        )
        with pytest.raises(EngineTimeout, match="too long"):
            await broken.submit(13, 8)
        while not tried.is_set():
            await asyncio.sleep(0.01)
        assert not broken.healthy
        with pytest.raises(Unavailable):
            await broken.submit(1, 8)
        assert await other.submit(2, 8) == 2
        works.set()
        while not broken.healthy:
            await asyncio.sleep(0.01)
        assert await broken.submit(3, 8) == 3
        await broken.close()
        await other.close()

    asyncio.run(asyncio.wait_for(scenario(), PATIENCE_S))


def test_overdue_run_refuses_further_requests() -> None:
    go_on = threading.Event()

    def run(payloads: Sequence[int]) -> Sequence[int]:
        assert go_on.wait(PATIENCE_S)
        return payloads

    async def scenario() -> None:
        engine_thread = EngineThread(run_limit_s=0.1)
        scheduler: Scheduler[int, Sequence[int], int] = Scheduler(
            engine_thread, run, lambda payloads, values, waits: values
        )
        running = asyncio.create_task(scheduler.submit(1, 8))
        while scheduler.healthy:
            await asyncio.sleep(0.01)
        with pytest.raises(Unavailable, match="does not finish its work"):
            await scheduler.submit(2, 8)
        go_on.set()
        assert await running == 1
        assert scheduler.healthy
        await scheduler.close()

    asyncio.run(asyncio.wait_for(scenario(), PATIENCE_S))

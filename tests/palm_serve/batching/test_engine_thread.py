"""Calls in the engine's thread between batches."""

import asyncio
import threading
import time
from collections.abc import Sequence

import pytest

from palm_serve.batching import EngineThread, Scheduler
from palm_serve.batching import engine_thread as engine_thread_module

BATCH_S, CALL_S = 0.01, 0.02


class Engine:
    """Sleeps for a batch, and records whether anything ran at the same time."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.overlapped = False
        self.thread = ""

    def hold(self, seconds: float) -> None:
        self.overlapped |= not self.lock.acquire(blocking=False)
        self.thread = threading.current_thread().name
        time.sleep(seconds)
        self.lock.release()

    def run(self, payloads: Sequence[int]) -> Sequence[int]:
        self.hold(BATCH_S)
        return payloads

    def call(self) -> str:
        self.hold(CALL_S)
        return self.thread


def make_scheduler(engine_thread: EngineThread, engine: Engine) -> "Scheduler[int, Sequence[int], int]":
    return Scheduler(engine_thread, engine.run, lambda payloads, values, waits: values)


def test_call_under_steady_load_runs_between_batches() -> None:
    """Under a load without a pause it waits for a moment, then it is done; nothing runs beside it."""
    engine, engine_thread = Engine(), EngineThread()

    async def scenario() -> None:
        scheduler = make_scheduler(engine_thread, engine)
        stop = asyncio.Event()

        async def caller() -> None:
            while not stop.is_set():
                await scheduler.submit(1, 8)

        # Three, so that a request waits whenever a batch ends.
        callers = [asyncio.create_task(caller()) for _ in range(3)]
        await asyncio.sleep(5 * BATCH_S)
        began = time.monotonic()
        for _ in range(3):
            assert await asyncio.wrap_future(engine_thread.call(engine.call)) == "palm-engine"
        assert time.monotonic() - began < 10
        stop.set()
        await asyncio.gather(*callers)
        await scheduler.close()

    asyncio.run(scenario())
    assert not engine.overlapped


def test_call_while_nothing_waits_runs_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_thread_module, "_CALL_PATIENCE_S", 3600)
    engine, engine_thread = Engine(), EngineThread()

    async def scenario() -> None:
        scheduler = make_scheduler(engine_thread, engine)
        assert await asyncio.wait_for(asyncio.wrap_future(engine_thread.call(engine.call)), 30) == "palm-engine"
        await scheduler.close()

    asyncio.run(scenario())


def test_call_that_fails_raises_for_its_caller_only() -> None:
    """The engine goes on."""
    engine, engine_thread = Engine(), EngineThread()

    async def scenario() -> None:
        scheduler = make_scheduler(engine_thread, engine)
        with pytest.raises(ZeroDivisionError):
            await asyncio.wrap_future(engine_thread.call(lambda: 1 / 0))
        cancelled = engine_thread.call(engine.call)
        cancelled.cancel()
        assert await scheduler.submit(7, 8) == 7
        assert scheduler.healthy
        last_call = engine_thread.call(engine.call)
        await scheduler.close()
        assert last_call.result(5) == "palm-engine", "a call from before the close is done"

    asyncio.run(scenario())

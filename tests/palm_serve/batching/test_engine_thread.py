"""Chores: work of the engine's thread that is no batch."""

import asyncio
import threading
import time
from collections.abc import Sequence

import pytest

from palm_serve.batching import EngineThread, Scheduler
from palm_serve.batching import engine_thread as engine_thread_module

BATCH_S, CHORE_S = 0.01, 0.02


class Engine:
    """Sleeps for a batch; tells whether anything ran beside it."""

    def __init__(self) -> None:
        self.alone = threading.Lock()
        self.overlapped = False
        self.thread = ""

    def hold(self, seconds: float) -> None:
        self.overlapped |= not self.alone.acquire(blocking=False)
        self.thread = threading.current_thread().name
        time.sleep(seconds)
        self.alone.release()

    def run(self, payloads: Sequence[int]) -> Sequence[int]:
        self.hold(BATCH_S)
        return payloads

    def chore(self) -> str:
        self.hold(CHORE_S)
        return self.thread


def scheduler(engine_thread: EngineThread, engine: Engine) -> "Scheduler[int, Sequence[int], int]":
    return Scheduler(engine_thread, engine.run, lambda payloads, values, waits: values)


def test_between_batches_whoever_waits() -> None:
    """Under a load without a pause it waits for a moment, then it is done; nothing runs beside it."""
    engine, engine_thread = Engine(), EngineThread()

    async def scenario() -> None:
        one = scheduler(engine_thread, engine)
        stop = asyncio.Event()

        async def caller() -> None:
            while not stop.is_set():
                await one.submit(1, 8)

        # Three, so that somebody waits whenever a batch ends.
        callers = [asyncio.create_task(caller()) for _ in range(3)]
        await asyncio.sleep(5 * BATCH_S)
        began = time.monotonic()
        for _ in range(3):
            assert await asyncio.wrap_future(engine_thread.between(engine.chore)) == "palm-engine"
        assert time.monotonic() - began < 10
        stop.set()
        await asyncio.gather(*callers)
        await one.close()

    asyncio.run(scenario())
    assert not engine.overlapped


def test_at_once_where_nothing_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_thread_module, "_PATIENCE_S", 3600)
    engine, engine_thread = Engine(), EngineThread()

    async def scenario() -> None:
        one = scheduler(engine_thread, engine)
        assert await asyncio.wait_for(asyncio.wrap_future(engine_thread.between(engine.chore)), 30) == "palm-engine"
        await one.close()

    asyncio.run(scenario())


def test_failures_are_the_askers() -> None:
    """The engine goes on."""
    engine, engine_thread = Engine(), EngineThread()

    async def scenario() -> None:
        one = scheduler(engine_thread, engine)
        with pytest.raises(ZeroDivisionError):
            await asyncio.wrap_future(engine_thread.between(lambda: 1 / 0))
        given_up = engine_thread.between(engine.chore)
        given_up.cancel()
        assert await one.submit(7, 8) == 7
        assert one.healthy
        done = engine_thread.between(engine.chore)
        await one.close()
        assert done.result(5) == "palm-engine", "what was asked for before the end is done"

    asyncio.run(scenario())

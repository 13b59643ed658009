"""Batches take turns on the event loop, and leave it to others between two turns."""

import asyncio

import pytest

from palm_serve.batching import loop_turns
from palm_serve.batching.loop_turns import next_turn, share_turns


async def passes(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def take_turns(taken: list[str], name: str, count: int) -> None:
    for _ in range(count):
        await next_turn()
        taken.append(name)


def test_batches_take_turns() -> None:
    async def scenario() -> list[str]:
        taken: list[str] = []
        await asyncio.gather(take_turns(taken, "a", 3), take_turns(taken, "b", 3))
        return taken

    assert asyncio.run(scenario()) == ["a", "b"] * 3


def test_batch_alone_does_not_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_turns, "_PAUSE_S", 60.0)

    async def scenario() -> None:
        taken: list[str] = []
        await asyncio.wait_for(take_turns(taken, "a", 1000), 30)
        assert len(taken) == 1000

    asyncio.run(scenario())


def test_call_of_another_client_has_the_loop_between_two_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_turns, "_PAUSE_S", 60.0)
    shared = [False]

    async def scenario() -> None:
        share_turns(lambda: shared[0])
        taken: list[str] = []
        batches = [asyncio.create_task(take_turns(taken, name, 100)) for name in "ab"]
        await passes(20)
        assert 5 <= len(taken) <= 40
        shared[0] = True
        await passes(5)
        before = len(taken)
        await passes(100)
        assert len(taken) == before
        for batch in batches:
            batch.cancel()

    asyncio.run(scenario())


def test_batches_go_on_after_the_pause() -> None:
    async def scenario() -> None:
        share_turns(lambda: True)
        taken: list[str] = []
        await asyncio.wait_for(asyncio.gather(take_turns(taken, "a", 5), take_turns(taken, "b", 5)), 30)
        assert len(taken) == 10

    asyncio.run(scenario())

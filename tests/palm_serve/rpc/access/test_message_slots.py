"""Calls that await their message are bounded in number, more in a burst whose messages arrive at once."""

import asyncio
from typing import Any

import pytest

from palm_serve.errors import Overloaded, PalmServeError
from palm_serve.rpc.access import message_slots
from palm_serve.rpc.access.message_slots import WINDOW_BYTES, MessageSlots, Sender
from palm_serve.rpc.call_context import CallAborted


class Body:
    """Context of a call over HTTP. Its body comes when `arrive` is called."""

    def __init__(self, declared_bytes: int | None) -> None:
        self.declared_bytes = declared_bytes
        self._arrived: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def time_remaining(self) -> None:
        return None

    async def read(self) -> bytes:
        return await self._arrived

    def arrive(self) -> None:
        self._arrived.set_result(b"body")

    def end(self) -> None:
        self._arrived.set_exception(CallAborted())


def make_slots(timeout_s: float = 60.0, most_waiting: int = 0) -> MessageSlots:
    slots = MessageSlots(2**22, timeout_s, most_waiting)

    async def refuse(context: Any, call: Any, error: PalmServeError) -> None:
        context.end()

    slots.refuse = refuse
    return slots


def receive(slots: MessageSlots, body: Body, connection: int) -> "asyncio.Task[Any]":
    return asyncio.create_task(slots.receive(body, None, Sender("web", str(connection))))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("declared_bytes", "waits"), [(100, False), (WINDOW_BYTES, False), (WINDOW_BYTES + 1, True), (None, True)]
)
def test_only_long_messages_wait_for_a_slot(declared_bytes: int | None, waits: bool) -> None:
    async def main() -> bool:
        slots = make_slots()
        slow = [receive(slots, Body(100_000), number) for number in range(20)]
        await asyncio.sleep(0)
        body = Body(declared_bytes)
        body.arrive()
        answer = receive(slots, body, 100)
        done, _ = await asyncio.wait([answer], timeout=0.2)
        for task in (*slow, answer):
            task.cancel()
        await asyncio.gather(*slow, answer, return_exceptions=True)
        return not done

    assert asyncio.run(main()) is waits


def test_oldest_short_message_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message_slots, "_MAX_WAITING", 8)

    async def main() -> None:
        slots = make_slots()
        bodies = [Body(10) for _ in range(9)]
        tasks = []
        for number, body in enumerate(bodies):
            tasks.append(receive(slots, body, number))
            await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="other calls need its place"):
            await tasks[0]
        for body in bodies[1:]:
            body.arrive()
        assert await asyncio.gather(*tasks[1:]) == [b"body"] * 8

    asyncio.run(main())


def test_short_messages_must_arrive_in_time_too() -> None:
    async def main() -> None:
        slots = make_slots(timeout_s=0.1)
        with pytest.raises(PalmServeError, match=r"must arrive whole within 0\.1 s"):
            await receive(slots, Body(10), 1)

    asyncio.run(main())


@pytest.mark.parametrize("number", [16, 17])
def test_messages_of_a_burst_may_wait(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(message_slots, "_MAX_WAITING", 8)

    async def main() -> None:
        slots = make_slots(most_waiting=16)
        held = [Body(None) for _ in range(slots._client_limit)]
        bodies = [Body(None) for _ in range(number)]
        tasks = [receive(slots, body, 1) for body in (*held, *bodies)]
        await asyncio.sleep(0)
        for body in (*held, *bodies):
            body.arrive()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, Overloaded)]
        assert len(refused) == max(number - 16, 0)
        assert answers.count(b"body") == len(answers) - len(refused)

    asyncio.run(main())


def test_waiting_calls_above_the_limit_end_once_messages_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message_slots, "_MAX_WAITING", 8)
    monkeypatch.setattr(message_slots, "_GRACE_S", 0.05)

    async def main() -> None:
        slots = make_slots(most_waiting=20)
        held = [Body(None) for _ in range(slots._client_limit)]
        holders = [receive(slots, body, 100 + number) for number, body in enumerate(held)]
        bodies = [Body(None) for _ in range(16)]
        waiting = [receive(slots, body, 1) for body in bodies]
        other = Body(None)
        neighbour = receive(slots, other, 2)
        refused, left = await asyncio.wait(waiting, timeout=2)
        assert len(refused) == 12
        assert all(isinstance(task.exception(), Overloaded) for task in refused)
        assert set(waiting[:4]) == left, "the oldest stay"
        with pytest.raises(Overloaded, match="at most 4 calls of a connection may wait"):
            await receive(slots, Body(None), 1)
        for body in (*held, *bodies, other):
            body.arrive()
        assert await asyncio.gather(*holders, *left, neighbour) == [b"body"] * (len(holders) + 5)

    asyncio.run(main())

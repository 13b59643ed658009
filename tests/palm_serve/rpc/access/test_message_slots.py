"""Short messages whose length is known before they come need no slot, and are bounded in number."""

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


def make_slots(timeout_s: float = 60.0) -> MessageSlots:
    slots = MessageSlots(2**22, timeout_s)

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

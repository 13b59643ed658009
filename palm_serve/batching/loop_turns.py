"""Turns on an event loop for work that would block it: one piece of one batch in each pass of the loop."""

import asyncio
from collections import deque
from weakref import WeakKeyDictionary


class _LoopTurns:
    """Callers that wait for their turn on one event loop, in order of arrival."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._scheduled = False

    async def wait(self) -> None:
        future = self._loop.create_future()
        self._waiting.append(future)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._wake_next)
        await future

    def _wake_next(self) -> None:
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():  # cancelled
                future.set_result(None)
                break
        self._scheduled = bool(self._waiting)
        if self._scheduled:
            self._loop.call_soon(self._wake_next)


_turns: "WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopTurns]" = WeakKeyDictionary()


async def next_turn() -> None:
    """Wait until no other caller has its turn in this pass of the event loop.

    `asyncio.sleep(0)` lets other calls run, too, but with it every batch in flight continues in each pass: 64 of them block the
    loop 64 times longer than one, and a single call needs several passes.
    """
    loop = asyncio.get_running_loop()
    turns = _turns.get(loop)
    if turns is None:
        turns = _turns[loop] = _LoopTurns(loop)
    await turns.wait()

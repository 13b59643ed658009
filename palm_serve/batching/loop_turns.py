"""Turns on an event loop for work that would block it: one piece of one batch in each pass of the loop.

While a client waits for one answer beside batches of others, the loop has nothing to do between two pieces. The call needs several
passes, and each would else take a piece of a batch. And a thread that sleeps now and then is woken at once where others want the cores.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from weakref import WeakKeyDictionary

_PAUSE_S = 0.001


class _LoopTurns:
    """Callers that wait for their turn on one event loop, in order of arrival."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._scheduled = False
        self.is_shared: Callable[[], bool] = lambda: False
        """Returns True while a client waits for one answer beside others."""

    async def wait(self) -> None:
        future = self._loop.create_future()
        self._waiting.append(future)
        if not self._scheduled:
            self._schedule()
        await future

    def _schedule(self) -> None:
        self._scheduled = True
        if self.is_shared():
            self._loop.call_later(_PAUSE_S, self._wake_next)
        else:
            self._loop.call_soon(self._wake_next)

    def _wake_next(self) -> None:
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():  # cancelled
                future.set_result(None)
                break
        self._scheduled = False
        if self._waiting:
            self._schedule()


_turns: "WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopTurns]" = WeakKeyDictionary()


async def next_turn() -> None:
    """Wait until no other caller has its turn in this pass of the event loop.

    `asyncio.sleep(0)` lets other calls run, too, but with it every batch in flight continues in each pass: 64 of them block the
    loop 64 times longer than one, and a single call needs several passes.
    """
    await _running_turns().wait()


def share_turns(is_shared: Callable[[], bool]) -> None:
    """Pause between the turns on the running event loop while a client waits for one answer beside others.

    Args:
        is_shared: returns True while one does.
    """
    _running_turns().is_shared = is_shared


def _running_turns() -> _LoopTurns:
    loop = asyncio.get_running_loop()
    turns = _turns.get(loop)
    if turns is None:
        turns = _turns[loop] = _LoopTurns(loop)
    return turns

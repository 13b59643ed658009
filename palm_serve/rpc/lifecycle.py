"""Where a server stands between start and stop, and what it still has to finish."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from enum import Enum

from palm_serve.errors import Unavailable

_ENDED = "the server is shutting down: open the stream again, another replica can answer"


class State(Enum):
    """LOADING: calls are refused. DRAINING: health says so already, calls are still answered. STOPPING: new calls are refused."""

    LOADING = 0
    SERVING = 1
    DRAINING = 2
    STOPPING = 3


class Lifecycle:
    """State, calls in flight and open streams of one server. Belongs to one event loop."""

    def __init__(self) -> None:
        self._state = State.LOADING
        self._changed = asyncio.Event()
        self._in_flight = 0
        self._begun = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._ended = False
        self._streams: set[asyncio.Timeout] = set()

    @property
    def state(self) -> State:
        """The current state; setting it wakes those who wait for a change."""
        return self._state

    @state.setter
    def state(self, state: State) -> None:
        self._state = state
        self._changed.set()
        self._changed = asyncio.Event()

    def check(self) -> None:
        """Raises Unavailable where new calls are refused."""
        if self._state is State.LOADING:
            raise Unavailable("the server is loading its models: try again in a moment")
        if self._state is State.STOPPING:
            raise Unavailable("the server is shutting down: another replica can answer")

    async def change(self, timeout_s: float) -> None:
        """Returns when the state was set, or after `timeout_s` seconds."""
        waiter = self._changed
        try:
            await asyncio.wait_for(waiter.wait(), timeout_s)
        except TimeoutError:
            return

    @property
    def in_flight(self) -> int:
        """Calls in flight."""
        return self._in_flight

    @contextmanager
    def call(self) -> Iterator[None]:
        """Around a call in flight."""
        self._in_flight += 1
        self._begun += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()

    async def idle(self) -> None:
        """Returns when no call is in flight."""
        await self._idle.wait()

    async def quiet(self, pause_s: float, timeout_s: float) -> None:
        """Returns when no call has begun for `pause_s` seconds, or after `timeout_s`."""
        end, begun = time.monotonic() + timeout_s, -1
        while begun != self._begun and time.monotonic() < end:
            begun = self._begun
            await asyncio.sleep(pause_s)

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[None]:
        """Around the waiting of an open-ended stream: `end_streams` ends it with Unavailable."""
        if self._ended:
            raise Unavailable(_ENDED)
        try:
            async with asyncio.timeout(None) as scope:
                self._streams.add(scope)
                try:
                    yield
                finally:
                    self._streams.discard(scope)
        except TimeoutError:
            raise Unavailable(_ENDED) from None

    def end_streams(self) -> None:
        """Ends the waiting of every stream, now and from now on; what they have read is still answered."""
        self._ended = True
        now = asyncio.get_running_loop().time()
        for scope in self._streams:
            scope.reschedule(now)

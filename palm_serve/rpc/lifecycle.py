"""Lifecycle of a server: its state, its calls in flight and its open streams."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from enum import Enum

from palm_serve.errors import Unavailable

_SHUTTING_DOWN = "the server is shutting down. Another replica can answer."
_STREAM_ENDED = "the server is shutting down. Open the stream again: another replica can answer."


class State(Enum):
    """States of a server.

    LOADING: calls are refused. DRAINING: health checks report NOT_SERVING, calls are answered. STOPPING: new calls are refused.
    """

    LOADING = 0
    SERVING = 1
    DRAINING = 2
    STOPPING = 3


class Lifecycle:
    """State, calls in flight and open streams of one server. It belongs to one event loop."""

    def __init__(self) -> None:
        self._state = State.LOADING
        self._changed = asyncio.Event()
        self._in_flight = 0
        self._calls_started = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._streams_ended = False
        self._streams: set[asyncio.Timeout] = set()
        self._release: asyncio.Event | None = None
        self.running: set[asyncio.Task[object]] = set()
        """Tasks of the calls that `work` holds."""
        self.calls_ended = False
        self._on_end: list[Callable[[Unavailable], None]] = []

    @property
    def state(self) -> State:
        """Return the current state. Setting it wakes the tasks that wait in `change`."""
        return self._state

    @state.setter
    def state(self, state: State) -> None:
        self._state = state
        self._changed.set()
        self._changed = asyncio.Event()

    def check(self) -> None:
        """Check that new calls are accepted. Raises Unavailable."""
        if self._state is State.LOADING:
            raise Unavailable("the server is loading its models. Try again later.")
        if self._state is State.STOPPING:
            raise Unavailable(_SHUTTING_DOWN)

    async def change(self, timeout_s: float) -> None:
        """Wait until the state is set, or for `timeout_s` seconds."""
        waiter = self._changed
        try:
            await asyncio.wait_for(waiter.wait(), timeout_s)
        except TimeoutError:
            return

    @property
    def in_flight(self) -> int:
        """Return the number of calls in flight."""
        return self._in_flight

    @contextmanager
    def call(self) -> Iterator[None]:
        """Count a call as in flight while it runs."""
        self._in_flight += 1
        self._calls_started += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()

    async def idle(self) -> None:
        """Wait until no call is in flight."""
        await self._idle.wait()

    async def quiet(self, pause_s: float, timeout_s: float) -> None:
        """Wait until no call has started for `pause_s` seconds, or for about `timeout_s` seconds."""
        end = time.monotonic() + timeout_s
        calls_before = -1
        while calls_before != self._calls_started and time.monotonic() < end:
            calls_before = self._calls_started
            await asyncio.sleep(pause_s)

    @property
    def release(self) -> asyncio.Event | None:
        """Event for which new calls wait before they are answered. None: they do not wait."""
        return self._release

    def hold_calls(self) -> None:
        """Hold new calls back until `release_calls`. A client that asks again at once then does not, and none is cancelled."""
        self._release = asyncio.Event()

    def release_calls(self) -> None:
        """Answer the calls that were held back."""
        if self._release is not None:
            self._release.set()
            self._release = None

    def work(self) -> "_Work":
        """Let `end_calls` end the work of a call whose message has arrived. Raises Unavailable when it does."""
        return _Work(self)

    def on_end(self, end: Callable[[Unavailable], None]) -> None:
        """Call a function with an error in `end_calls`. It must end the calls that await a message."""
        self._on_end.append(end)

    def end_calls(self) -> None:
        """End every call in flight with UNAVAILABLE, because gRPC would end it with CANCELLED."""
        self.calls_ended = True
        for end in self._on_end:
            end(Unavailable(_SHUTTING_DOWN))
        for task in self.running:
            task.cancel()

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[None]:
        """Let `end_streams` end an open-ended stream while it waits. Raises Unavailable when it does."""
        if self._streams_ended:
            raise Unavailable(_STREAM_ENDED)
        try:
            async with asyncio.timeout(None) as timeout:
                self._streams.add(timeout)
                try:
                    yield
                finally:
                    self._streams.discard(timeout)
        except TimeoutError:
            raise Unavailable(_STREAM_ENDED) from None

    def end_streams(self) -> None:
        """End the waiting of every present and future stream. Messages that were read are still answered."""
        self._streams_ended = True
        now = asyncio.get_running_loop().time()
        for timeout in self._streams:
            timeout.reschedule(now)


class _Work:
    """Holds the task of a call in a set. A class, because every call enters it, and a generator costs three times as much."""

    __slots__ = ("_lifecycle", "_task")

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._lifecycle.running.add(task)

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._lifecycle.running.discard(self._task)
        if self._lifecycle.calls_ended and kind is asyncio.CancelledError:
            self._task.uncancel()
            raise Unavailable(_SHUTTING_DOWN) from None

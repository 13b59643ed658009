"""The thread that runs engines, one batch at a time, and the thread that decodes behind it.

All models of a server share one lane: two engines at once would only fight for the cores. The engine's thread takes its next batch by itself as
soon as it is free, so it waits neither for the event loop nor for decoding.
"""

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from palm_serve.batching.admission import AdmissionController, ScheduledBatch
from palm_serve.batching.queue import Queue, QueuedRequest
from palm_serve.batching.thread_priority import lower_thread_priority
from palm_serve.errors import PalmServeError

R = TypeVar("R")

log = logging.getLogger(__name__)

_UNDECODED = 2
"""Batches that may wait for decoding before the engine waits for it."""
_FAILURES = 3
"""Batches of a model that fail in a row before its engine counts as broken."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 30.0
"""Between trials of a broken engine."""
_PATIENCE_S = 0.25
"""What a chore waits for a moment in which nothing else does."""


@dataclass(slots=True)
class BatchOutcome:
    """What became of a batch. Times are seconds on the lane's clock."""

    results: Any = None
    error: BaseException | None = None
    wasted: int = 0
    """Rows that nobody wanted any more when the engine began."""
    ran: float = 0.0
    """When the engine was through."""


class BatchHandler(Protocol):
    """A model, as its lane sees it. The calls come from the lane's threads."""

    def run(self, batch: ScheduledBatch[Any]) -> Any:
        """What holds the engine."""

    def decode(self, batch: ScheduledBatch[Any], values: Any) -> Any:
        """Results, one for each entry."""

    def probe(self) -> None:
        """A trial of the engine; raises where it does not work."""

    def deliver(self, batch: ScheduledBatch[Any], outcome: BatchOutcome) -> None:
        """Takes what became of a batch."""

    def lose(self, entries: list[QueuedRequest[Any]]) -> None:
        """Takes the entries whose deadline cannot be met any more."""

    def broke(self, error: BaseException, entries: list[QueuedRequest[Any]]) -> None:
        """The engine does not work; takes what waited for it."""

    def recovered(self) -> None:
        """The engine works again."""


@dataclass(slots=True)
class _State:
    """A tenant, and how its engine fares."""

    tenant: BatchHandler
    failures: int = 0
    """In a row."""
    pause: float = 0.0
    """Seconds between the last trials; 0: the engine works."""
    trial: float = 0.0
    """When to try it again."""


@dataclass(slots=True)
class _Chore:
    """Work that is no batch."""

    work: Callable[[], Any]
    due: float
    """When it is done although batches wait."""
    done: "Future[Any]" = field(default_factory=Future)


class EngineThread:
    """One engine at a time.

    Args:
        clock: seconds; that of the deadlines.
        nice: by how much the engine's thread gives way to the others.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, nice: int = 0) -> None:
        self.clock = clock
        self._nice = nice
        self.dispatcher: AdmissionController[Any] = AdmissionController()
        self.changed = threading.Condition()
        """Guards the dispatcher. Notify it when something waits and the lane is `idle`."""
        self.idle = False
        self._states: dict[Queue[Any], _State] = {}
        self._decodings: queue.SimpleQueue[tuple[_State, ScheduledBatch[Any], Any, BatchOutcome] | None] = (
            queue.SimpleQueue()
        )
        self._chores: deque[_Chore] = deque()
        self._undecoded = 0
        self._threads: list[threading.Thread] = []
        self._stopping = False

    def enter(self, tenant: BatchHandler, queues: Iterable[Queue[Any]]) -> None:
        """Serves the queues of one more model. The threads begin with the first."""
        state = _State(tenant)
        with self.changed:
            self._states.update((one, state) for one in queues)
            if not self._threads:
                self._stopping = False
                self._start(self._decode_all, "palm-decode")
                self._start(self._run_all, "palm-engine")

    def leave(self, queues: Iterable[Queue[Any]]) -> None:
        """Forgets a model whose queues stay empty from now on. The threads end with the last; blocks until they have."""
        with self.changed:
            self.dispatcher.close(queues)
            for one in queues:
                self._states.pop(one, None)
            if self._states:
                return
            self._stopping = True
            threads, self._threads = self._threads, []
            self.changed.notify()
        for thread in threads:
            thread.join()

    def between(self, work: Callable[[], R]) -> "Future[R]":
        """Some work in the engine's thread, between batches: as soon as none waits, or a moment later. The lane must have a tenant until it is done."""
        chore = _Chore(work, self.clock() + _PATIENCE_S)
        with self.changed:
            self._chores.append(chore)
            self.changed.notify()
        return chore.done

    def _start(self, target: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=target, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _run_all(self) -> None:
        """The engine's thread. Should anything end it before its time, another takes its place."""
        lower_thread_priority(self._nice)
        try:
            while (work := self._next()) is not None:
                if isinstance(work, _State):
                    self._try(work)
                elif isinstance(work, _Chore):
                    _do(work)
                else:
                    self._run(work)
                del work  # or the engine of a model that has left would live until there is other work
            self._decodings.put(None)
        except BaseException as error:
            log.critical("the engine's thread crashed; another takes its place", exc_info=error)
            for state in {id(state): state for state in self._states.values()}.values():
                self._break(state, error)
            with self.changed:
                self._threads = [thread for thread in self._threads if thread is not threading.current_thread()]
                self._start(self._run_all, "palm-engine")

    def _next(self) -> "ScheduledBatch[Any] | _State | _Chore | None":
        """Blocks until there is something to do: a batch to run, a chore, or a broken engine to try; None: the end."""
        with self.changed:
            while True:
                now = self.clock()
                broken = [state for state in self._states.values() if state.pause]
                if any(state.trial <= now for state in broken):
                    return min(broken, key=lambda state: state.trial)
                if self._chores and (self._chores[0].due <= now or not self.dispatcher.waiting):
                    return self._chores.popleft()
                if self._undecoded < _UNDECODED and (batch := self.dispatcher.next(now)) is not None:
                    return batch
                if self._stopping:
                    return None
                self.idle = True
                self.changed.wait(min((state.trial - now for state in broken), default=None))
                self.idle = False

    def _run(self, batch: ScheduledBatch[Any]) -> None:
        state = self._states[batch.queue]
        if batch.lost:
            state.tenant.lose(batch.lost)
        if not batch.entries:
            return
        began = self.clock()
        outcome = BatchOutcome(wasted=sum(entry.gone or entry.deadline <= began for entry in batch.entries))
        try:
            values = state.tenant.run(batch)
        except BaseException as error:
            outcome.error, outcome.ran = error, self.clock()
            with self.changed:
                self.dispatcher.failed(batch, outcome.ran)
            state.tenant.deliver(batch, outcome)
            if not isinstance(error, Exception):
                raise
            if isinstance(error, PalmServeError):  # of the requests, not of the engine
                return
            state.failures += 1
            if state.failures >= _FAILURES:
                log.error("%d batches in a row failed; the engine counts as broken", state.failures)
                self._break(state, error)
            return
        state.failures = 0
        with self.changed:
            outcome.ran = self.clock()
            self.dispatcher.finished(batch, outcome.ran)
            # Alone, it is decoded here and spared the way through another thread.
            here = not self._undecoded and not self.dispatcher.waiting
            self._undecoded += not here
        if here:
            self._decode(state, batch, values, outcome)
        else:
            self._decodings.put((state, batch, values, outcome))

    def _decode_all(self) -> None:
        """The decoding thread."""
        while (work := self._decodings.get()) is not None:
            self._decode(*work)
            del work
            with self.changed:
                self._undecoded -= 1
                self.changed.notify()

    def _decode(self, state: _State, batch: ScheduledBatch[Any], values: Any, outcome: BatchOutcome) -> None:
        try:
            outcome.results = state.tenant.decode(batch, values)
        except BaseException as error:  # the thread lives on, and somebody waits for the batch
            outcome.error = error
        state.tenant.deliver(batch, outcome)

    def _break(self, state: _State, error: BaseException) -> None:
        """An engine counts as broken until a trial succeeds."""
        with self.changed:
            entries = [entry for one, owner in self._states.items() if owner is state for entry in one.drain()]
            state.pause, state.trial = _FIRST_PAUSE_S, self.clock()
        state.tenant.broke(error, entries)

    def _try(self, state: _State) -> None:
        try:
            state.tenant.probe()
        except Exception as error:
            state.pause = min(2 * state.pause, _LONGEST_PAUSE_S)
            state.trial = self.clock() + state.pause
            log.error("the engine does not work: %s; next trial in %.1f s", error, state.pause)
            return
        state.pause = state.failures = 0
        log.warning("the engine works again")
        state.tenant.recovered()


def _do(chore: _Chore) -> None:
    if not chore.done.set_running_or_notify_cancel():
        return
    try:
        chore.done.set_result(chore.work())
    except BaseException as error:  # of whoever waits for it
        chore.done.set_exception(error)

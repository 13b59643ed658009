"""Engine thread: runs the engines of all models, one batch at a time, with a second thread that decodes the results.

All models of a server share one engine thread, because two engines at once would compete for the cores. The thread takes
its next batch by itself as soon as it is free. So it waits neither for the event loop nor for decoding.
"""

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from palm_serve.batching.admission import AdmissionController, ScheduledBatch
from palm_serve.batching.batch_handler import BatchHandler, BatchOutcome
from palm_serve.batching.client_queue import ClientWeight, equal_weight
from palm_serve.batching.plan import BatchLimits
from palm_serve.batching.queue import EngineLatency, Queue, QueuedRequest
from palm_serve.batching.thread_priority import lower_thread_priority
from palm_serve.batching.watchdog import RUN_LIMIT_S, Watchdog
from palm_serve.errors import EngineTimeout, PalmServeError
from palm_serve.types import Priority

R = TypeVar("R")

log = logging.getLogger(__name__)

_UNDECODED_BATCHES = 2
"""Batches that may wait for decoding before the engine waits for it."""
_FAILURES = 3
"""Failed batches in a row after which a model's engine counts as broken."""
_FIRST_PAUSE_S = 0.1
"""Pause before the second trial of a broken engine. It doubles with each trial."""
_LONGEST_PAUSE_S = 30.0
_PAUSE_PER_TRIAL = 10.0
"""Shortest pause after a failed trial, in durations of the trial: a trial holds the engine of all models."""
_CALL_PATIENCE_S = 0.25
"""Time that a call waits for a moment without waiting requests."""


@dataclass(slots=True)
class _ModelState:
    """Health of one model's engine."""

    handler: BatchHandler
    failures: int = 0
    """Failed batches in a row."""
    pause_s: float = 0.0
    """Pause before the next trial of a broken engine. Zero: the engine works."""
    next_trial: float = 0.0


@dataclass(slots=True)
class _Call:
    """A function to call in the engine's thread."""

    function: Callable[[], Any]
    interrupt: Callable[[], object]
    due: float
    """When it is called even if requests wait."""
    future: "Future[Any]" = field(default_factory=Future)


class EngineThread:
    """Runs one engine at a time.

    Args:
        clock: returns seconds, on the clock of the deadlines.
        nice: by how much to raise the niceness of the engine's thread.
        run_limit_s: seconds after which a run is stopped. Its engine counts as broken until a trial succeeds.
        on_hung: called in another thread when a run cannot be stopped.
        client_weight: returns the weight of a client by its name.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        nice: int = 0,
        run_limit_s: float = RUN_LIMIT_S,
        on_hung: Callable[[], object] = lambda: None,
        client_weight: ClientWeight = equal_weight,
    ) -> None:
        self.clock = clock
        self._nice = nice
        self._watchdog = Watchdog(run_limit_s, on_hung)
        self._controller: AdmissionController[Any] = AdmissionController(client_weight)
        self._changed = threading.Condition()
        """Guards the queues. The thread waits on it while it has nothing to do."""
        self.busy_s = 0.0
        """Seconds in which a batch ran, of all batches so far."""
        self.sleeping = False
        """True while the thread waits for `wake`."""
        self._states: dict[Queue[Any], _ModelState] = {}
        self._decodings: queue.SimpleQueue[tuple[_ModelState, ScheduledBatch[Any], Any, BatchOutcome] | None] = (
            queue.SimpleQueue()
        )
        self._calls: deque[_Call] = deque()
        self._undecoded = 0
        self._threads: list[threading.Thread] = []
        self._stopping = False

    @property
    def idle(self) -> bool:
        """True while no request waits and no batch runs."""
        return self._controller.idle

    @property
    def overdue(self) -> bool:
        """True while a run takes longer than its limit. No model can be served then."""
        return self._watchdog.overdue

    def interrupt(self) -> None:
        """Ask the run in progress to end."""
        self._watchdog.interrupt()

    def open(
        self,
        handler: BatchHandler,
        limits: BatchLimits,
        padded_tokens: Callable[[int, int], int],
        latency: EngineLatency,
    ) -> dict[Priority, Queue[Any]]:
        """Add a model and return its queues. The threads start with the first model.

        Args:
            handler: callbacks of the model.
            limits: limits of a batch and of each queue.
            padded_tokens: maps rows and longest row to the tokens that the engine computes.
            latency: latency of the model's engine.
        """
        state = _ModelState(handler)
        with self._changed:
            queues = self._controller.open(limits, padded_tokens, latency)
            for model_queue in queues.values():
                self._states[model_queue] = state
            if not self._threads:
                self._stopping = False
                self._start(self._decode_batches, "palm-decode")
                self._start(self._run_batches, "palm-engine")
                self._watchdog.start()
        return queues

    def close(self, queues: Iterable[Queue[Any]]) -> None:
        """Remove a model whose queues stay empty. The threads end with the last model. Blocks until they have."""
        with self._changed:
            self._controller.close(queues)
            for model_queue in queues:
                self._states.pop(model_queue, None)
            if self._states:
                return
            self._stopping = True
            threads = self._threads
            self._threads = []
            self._changed.notify()
        for thread in threads:
            thread.join()
        self._watchdog.stop()

    def room(self, model_queue: Queue[Any], client: str) -> int:
        """Return how many more requests of a client a queue takes now."""
        with self._changed:
            return model_queue.room(client)

    def check(self, model_queue: Queue[Any], length: int, deadline: float | None, client: str = "") -> None:
        """Raise what `submit` would raise.

        Args:
            model_queue: queue of the request's model and priority.
            length: tokens of the request.
            deadline: time after which the answer is useless, in seconds. None: none.
            client: who asks.
        """
        with self._changed:
            self._controller.check(model_queue, length, deadline, self.clock(), client)

    def submit(
        self, model_queue: Queue[Any], payload: object, length: int, deadline: float | None, client: str = ""
    ) -> QueuedRequest[Any]:
        """Queue a request. Call `wake` later if the thread is `sleeping`.

        Args:
            model_queue: queue of the request's model and priority.
            payload: what the engine is to run.
            length: tokens of the request.
            deadline: time after which the answer is useless, in seconds. None: none.
            client: who asks.

        Raises:
            Overloaded: the queue is full.
            Unmeetable: the deadline would pass before the answer.
            DeadlineExceeded: the deadline has passed.
        """
        with self._changed:
            return self._controller.admit(model_queue, payload, length, deadline, self.clock(), client)

    def wake(self) -> None:
        """Wake the thread after requests were queued."""
        with self._changed:
            self._changed.notify()

    def abandon(self, request: QueuedRequest[Any]) -> bool:
        """Give up a request. Return True if it was still waiting; then it is not run."""
        with self._changed:
            request.abandoned = True
            waiting = request.waiting
            if waiting:
                request.queue.withdraw(request)
        return waiting

    def record_delivery(self, batch: ScheduledBatch[Any], ended: float) -> None:
        """Learn how long the answers of a batch took, from the end of the engine's run until now."""
        with self._changed:
            batch.queue.latency.delivery.observe(batch.padded, self.clock() - ended)

    def call(self, function: Callable[[], R], interrupt: Callable[[], object] = lambda: None) -> "Future[R]":
        """Call a function in the engine's thread between batches, once no request waits or a moment later.

        At least one model must stay open until the call is done. `interrupt` asks the function to end, if it takes too long.
        """
        call = _Call(function, interrupt, self.clock() + _CALL_PATIENCE_S)
        with self._changed:
            self._calls.append(call)
            self._changed.notify()
        return call.future

    def _start(self, target: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=target, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _run_batches(self) -> None:
        """Run batches until the last model is closed. If the thread crashes, another one replaces it."""
        lower_thread_priority(self._nice)
        try:
            while (work := self._next_work()) is not None:
                if isinstance(work, _ModelState):
                    self._try_engine(work)
                elif isinstance(work, _Call):
                    self._watchdog.begin(work.interrupt)
                    _run_call(work)
                    self._watchdog.end()
                else:
                    self._run_batch(work)
                # Without this, the engine of a closed model would stay in memory until there is other work.
                del work
            self._decodings.put(None)
        except BaseException as error:
            log.critical("the engine's thread crashed; another takes its place", exc_info=error)
            for state in {id(state): state for state in self._states.values()}.values():
                self._mark_broken(state, error)
            with self._changed:
                self._threads = [thread for thread in self._threads if thread is not threading.current_thread()]
                self._start(self._run_batches, "palm-engine")

    def _next_work(self) -> "ScheduledBatch[Any] | _ModelState | _Call | None":
        """Wait for work and return it: a batch, a call, or a broken engine to try. None: the last model is closed."""
        with self._changed:
            while True:
                now = self.clock()
                broken = [state for state in self._states.values() if state.pause_s]
                if broken:
                    next_state = min(broken, key=lambda state: state.next_trial)
                    if next_state.next_trial <= now:
                        return next_state
                if self._calls and (self._calls[0].due <= now or not self._controller.has_waiting):
                    return self._calls.popleft()
                if self._undecoded < _UNDECODED_BATCHES:
                    batch = self._controller.next_batch(now)
                    if batch is not None:
                        return batch
                if self._stopping:
                    return None
                self.sleeping = True
                self._changed.wait(min((state.next_trial - now for state in broken), default=None))
                self.sleeping = False

    def _run_batch(self, batch: ScheduledBatch[Any]) -> None:
        state = self._states[batch.queue]
        if batch.lost:
            state.handler.reject(batch.lost)
        if not batch.requests:
            return
        began = self.clock()
        outcome = BatchOutcome()
        for request in batch.requests:
            outcome.wasted += request.abandoned or request.deadline <= began
        self._watchdog.begin(state.handler.interrupt)
        try:
            values = state.handler.run(batch)
        except BaseException as error:
            self._watchdog.end()
            outcome.error = error
            self._batch_failed(state, batch, outcome)
            if not isinstance(error, Exception):
                raise
            return
        self._watchdog.end()
        state.failures = 0
        with self._changed:
            outcome.ended = self.clock()
            self.busy_s += outcome.ended - began
            self._controller.batch_finished(batch, outcome.ended)
            # A single batch is decoded here, which saves the switch to another thread.
            decode_here = not self._undecoded and not self._controller.has_waiting
            self._undecoded += not decode_here
        if decode_here:
            self._decode(state, batch, values, outcome)
        else:
            self._decodings.put((state, batch, values, outcome))

    def _batch_failed(self, state: _ModelState, batch: ScheduledBatch[Any], outcome: BatchOutcome) -> None:
        """Deliver the error of a failed batch. Several in a row mean that the engine is broken."""
        outcome.ended = self.clock()
        with self._changed:
            self._controller.batch_failed(batch, outcome.ended)
        state.handler.deliver(batch, outcome)
        error = outcome.error
        if isinstance(error, EngineTimeout):
            # One is enough: the next one would hold the engine of all models for as long.
            self._mark_broken(state, error)
            return
        # A PalmServeError is the fault of the requests. Other exceptions than Exception end the thread.
        if not isinstance(error, Exception) or isinstance(error, PalmServeError):
            return
        state.failures += 1
        if state.failures >= _FAILURES:
            log.error("%d batches in a row failed; the engine counts as broken", state.failures)
            self._mark_broken(state, error)

    def _decode_batches(self) -> None:
        """Decode batches until the engine's thread ends."""
        while (work := self._decodings.get()) is not None:
            self._decode(*work)
            del work
            with self._changed:
                self._undecoded -= 1
                self._changed.notify()

    def _decode(self, state: _ModelState, batch: ScheduledBatch[Any], values: Any, outcome: BatchOutcome) -> None:
        try:
            outcome.results = state.handler.decode(batch, values)
        except BaseException as error:  # the thread must go on, and callers wait for the batch
            outcome.error = error
        state.handler.deliver(batch, outcome)

    def _mark_broken(self, state: _ModelState, error: BaseException) -> None:
        """Take an engine out of service until a trial succeeds."""
        requests: list[QueuedRequest[Any]] = []
        with self._changed:
            for model_queue, queue_state in self._states.items():
                if queue_state is state:
                    requests += model_queue.drain()
            state.pause_s = _FIRST_PAUSE_S
            state.next_trial = self.clock()
        state.handler.engine_failed(error, requests)

    def _try_engine(self, state: _ModelState) -> None:
        """Try a broken engine, and put it back into service if it works."""
        began = self.clock()
        self._watchdog.begin(state.handler.interrupt)
        try:
            state.handler.probe()
        except Exception as error:
            self._watchdog.end()
            trial_s = self.clock() - began
            state.pause_s = max(min(2 * state.pause_s, _LONGEST_PAUSE_S), _PAUSE_PER_TRIAL * trial_s)
            state.next_trial = self.clock() + state.pause_s
            log.error("the engine does not work: %s; next trial in %.1f s", error, state.pause_s)
            return
        self._watchdog.end()
        state.pause_s = 0.0
        state.failures = 0
        log.warning("the engine works again")
        state.handler.engine_recovered()


def _run_call(call: _Call) -> None:
    if not call.future.set_running_or_notify_cancel():
        return
    try:
        call.future.set_result(call.function())
    except BaseException as error:  # belongs to whoever waits for the future
        call.future.set_exception(error)

"""Watchdog of the engine thread: stops a run that takes too long, and reports one that cannot be stopped."""

import logging
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

RUN_LIMIT_S = 60.0
"""Seconds after which a run of the engine counts as hung, unless an option says otherwise."""
_LONGEST_GRACE_S = 10.0
"""Seconds that a run gets to end after it was interrupted."""
_LONGEST_INTERVAL_S = 1.0


class Watchdog:
    """Limits the time of the work of one other thread, one piece at a time.

    Args:
        limit_s: seconds that a piece of work may take.
        on_hung: called in the watchdog's thread, once, when interrupted work does not end.
    """

    def __init__(self, limit_s: float, on_hung: Callable[[], object] = lambda: None) -> None:
        self.overdue = False
        """True while a piece of work takes longer than the limit."""
        self._limit_s = limit_s
        self._grace_s = min(limit_s, _LONGEST_GRACE_S)
        self._interval_s = min(limit_s / 4, _LONGEST_INTERVAL_S)
        self._on_hung = on_hung
        self._number = 0
        self._interrupt: Callable[[], object] | None = None
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()
        self._stopped.set()

    def start(self) -> None:
        """Start the thread, if it does not run."""
        if self._stopped.is_set():
            # A new event, because the thread of before may not have seen the end of the former one.
            self._stopped = threading.Event()
            self._thread = threading.Thread(
                target=self._watch, args=(self._stopped,), name="palm-watchdog", daemon=True
            )
            self._thread.start()

    def stop(self) -> None:
        """End the thread, and wait for it."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def begin(self, interrupt: Callable[[], object]) -> None:
        """Begin a piece of work. `interrupt` asks it to end, from another thread."""
        self._number += 1
        self._interrupt = interrupt

    def end(self) -> None:
        """End the piece of work."""
        self._interrupt = None
        self.overdue = False

    def interrupt(self) -> None:
        """Ask the work in progress to end, however long it has taken."""
        interrupt = self._interrupt
        if interrupt is None:
            return
        try:
            interrupt()
        except Exception:  # of a runtime, and the thread must go on
            log.exception("the engine's run could not be interrupted")

    def _watch(self, stopped: threading.Event) -> None:
        number = 0
        ran_s = 0.0
        hung = False
        looked_at = time.monotonic()
        while not stopped.wait(self._interval_s):
            now = time.monotonic()
            # A process or machine that was paused has not worked in the meantime.
            elapsed_s = min(now - looked_at, 2 * self._interval_s)
            looked_at = now
            if self._interrupt is None or self._number != number:
                number = self._number
                ran_s = 0.0
                hung = False
                self.overdue = False  # the work may have ended just before it was set
                continue
            ran_s += elapsed_s
            if ran_s >= self._limit_s and not self.overdue:
                self.overdue = True
                log.error("a run of the engine takes longer than %g s and is stopped; nothing is served", self._limit_s)
                self.interrupt()
            elif ran_s >= self._limit_s + self._grace_s and not hung:
                hung = True
                log.critical("a run of the engine cannot be stopped")
                self._on_hung()

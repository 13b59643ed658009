"""Calls of libraries that may wait for ever: they run in threads that can be left behind."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from typing import TypeVar

R = TypeVar("R")


class StalledError(Exception):
    """Nothing has arrived for too long."""


class Heartbeat:
    """Time of the last sign of life of a call."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def beat(self) -> None:
        """Note a sign of life."""
        self.last = time.monotonic()


def in_daemon_thread(function: Callable[[], R]) -> "Future[R]":
    """Call a function in a thread that does not keep the process from ending."""
    future: Future[R] = Future()

    def call() -> None:
        try:
            result = function()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=call, name="palm-storage", daemon=True).start()
    return future


def call_patiently(function: Callable[[Heartbeat], R], stall_s: float) -> R:
    """Call a function, and leave it behind when it gives no sign of life.

    Args:
        function: what is called. It beats the heart that it is given when something arrives.
        stall_s: seconds without a sign of life.

    Raises:
        StalledError: there was none for that long.
        Exception: what the function raises.
    """
    heart = Heartbeat()
    future = in_daemon_thread(lambda: function(heart))
    while True:
        patience_s = heart.last + stall_s - time.monotonic()
        if patience_s <= 0:
            raise StalledError
        if wait_for([future], patience_s).done:
            return future.result()

"""Background work: processes that compute only while nothing else wants a core."""

import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_LOWEST_PRIORITY = 19
_PROCESSES = Path("/proc")
_NS = 1e9


def enter_background() -> None:
    """Give this process, and all that it starts later, the processor time that nobody else wants.

    Niceness and scheduling classes are compared within a session only, where Linux groups processes by session (autogroup). So
    a background process must stay in the session of the processes that it is to yield to. The change is permanent: without
    privileges, no process can raise its priority again.
    """
    if hasattr(os, "nice"):  # not Windows
        os.nice(_LOWEST_PRIORITY)
    if sys.platform == "linux":
        with suppress(OSError):  # a sandbox may forbid it; the niceness remains
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


class CoreTimes(NamedTuple):
    """Seconds of the threads of a process and of its children."""

    ran: float
    waited: float
    """Time in which a thread could run, and other threads had the cores."""


def core_times(pid: int) -> CoreTimes | None:
    """Return how long a process and its children ran and waited for a core so far. None: unknown."""
    process = _PROCESSES / str(pid)
    try:
        tasks = [*(process / "task").iterdir()]
        for child in (process / "task" / str(pid) / "children").read_text(encoding="ascii").split():
            with suppress(FileNotFoundError):  # it has ended
                tasks += (_PROCESSES / child / "task").iterdir()
        ran_ns = waited_ns = 0
        for task in tasks:
            with suppress(FileNotFoundError):
                task_ran_ns, task_waited_ns = _read_schedstat(task)
                ran_ns += task_ran_ns
                waited_ns += task_waited_ns
    except (OSError, ValueError):
        return None
    return CoreTimes(ran_ns / _NS, waited_ns / _NS)


def unhindered_clock() -> float:
    """Return seconds of a clock that stands still while the calling thread waits for a core."""
    try:
        _, waited_ns = _read_schedstat(_PROCESSES / "thread-self")
    except (OSError, ValueError):  # not Linux, or a kernel without these figures
        return time.monotonic()
    return time.monotonic() - waited_ns / _NS


def _read_schedstat(task: Path) -> tuple[int, int]:
    """Return the nanoseconds that a thread ran, and those that it waited for a core."""
    ran, waited, _ = (task / "schedstat").read_text(encoding="ascii").split()
    return int(ran), int(waited)

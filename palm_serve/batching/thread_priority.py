"""Thread priorities: the engine computes for milliseconds on every core, and must not delay answers or health checks."""

import contextlib
import ctypes
import os
import platform
import struct
import sys
import threading

_LOWEST_PRIORITY = 19
_SHORT_SLICE_NS = 100_000
"""The shortest that Linux grants."""
_USUAL_SLICE = 0
_CALL_NUMBERS = {"x86_64": 314, "aarch64": 274}
"""Numbers of the system call sched_setattr, which the C library does not offer."""


def lower_thread_priority(increment: int) -> None:
    """Raise the niceness of the calling thread, and of threads that it starts later, above that of the process.

    With an increment of 5, the thread gets a quarter of a core that the event loop wants, too, and all of it otherwise.
    Other processes of its session or control group come before it, too. The change is permanent, because only root may
    raise a priority again. It takes effect on Linux only, where each thread has its own niceness.
    """
    if sys.platform != "linux":
        return
    thread_id = threading.get_native_id()
    niceness = os.getpriority(os.PRIO_PROCESS, thread_id)
    if increment > 0:
        lowered = min(os.getpriority(os.PRIO_PROCESS, os.getpid()) + increment, _LOWEST_PRIORITY)
        niceness = max(niceness, lowered)
        os.setpriority(os.PRIO_PROCESS, thread_id, niceness)
    # A thread inherits the slices of the one that starts it.
    _set_slice(_USUAL_SLICE)


def shorten_slices() -> None:
    """Ask Linux to run the calling thread in short slices, and so soon after it wakes up.

    Its share of a core that others want stays the same. Only the order changes: a thread that needs little is not kept
    waiting until the slice of another one ends. Linux heeds it since 6.12. Before, and elsewhere, nothing changes.
    """
    if sys.platform == "linux":
        _set_slice(_SHORT_SLICE_NS)


def _set_slice(nanoseconds: int) -> None:
    """Set the slice of the calling thread. Zero: the usual one of the machine."""
    number = _CALL_NUMBERS.get(platform.machine())
    if number is None or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return
    # struct sched_attr: size, policy, flags, niceness, priority, slice, and two times of another policy.
    niceness = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    attributes = struct.pack("=IIQiIQQQ", 48, os.SCHED_OTHER, 0, niceness, 0, nanoseconds, 0, 0)
    # Where it is forbidden, the call fails, and the slice stays as it is.
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).syscall(number, 0, attributes, 0)

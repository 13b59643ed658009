"""Thread priorities: the engine computes for milliseconds on every core, and must not delay answers or health checks."""

import os
import sys
import threading

_LOWEST_PRIORITY = 19


def lower_thread_priority(increment: int) -> None:
    """Raise the niceness of the calling thread, and of threads that it starts later, above that of the process.

    With an increment of 10, the thread gets a tenth of what the event loop gets when both want a core, and all of it
    otherwise. The change is permanent, because only root may raise a priority again. It takes effect on Linux only,
    where each thread has its own niceness.
    """
    if sys.platform == "linux" and increment > 0:
        thread_id = threading.get_native_id()
        niceness = min(os.getpriority(os.PRIO_PROCESS, os.getpid()) + increment, _LOWEST_PRIORITY)
        os.setpriority(os.PRIO_PROCESS, thread_id, max(niceness, os.getpriority(os.PRIO_PROCESS, thread_id)))

"""Threads that give way: the engine computes for milliseconds on every core, and a refusal, an answer or a health check must not wait for that."""

import os
import sys
import threading


def lower_thread_priority(by: int) -> None:
    """Makes the calling thread, and the threads that it starts from now on, nicer than the process by so much. For good: only root may go back.

    By 10, a thread gets a tenth of what the event loop gets where both want a core, and all of it otherwise. Linux only, where niceness is a
    thread's own; elsewhere nothing happens.
    """
    if sys.platform == "linux" and by > 0:
        own = threading.get_native_id()
        wanted = min(os.getpriority(os.PRIO_PROCESS, os.getpid()) + by, 19)
        os.setpriority(os.PRIO_PROCESS, own, max(wanted, os.getpriority(os.PRIO_PROCESS, own)))

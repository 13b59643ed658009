"""End of a process whose threads may not end: no thread can be stopped from outside."""

import logging
import os
import sys
import threading
from contextlib import suppress

log = logging.getLogger(__name__)

END_S = 10.0
"""Time after an error for an orderly end."""
EXIT_REFUSED = 2
"""Exit code for what the user can mend: an option, a bundle, a port."""
EXIT_HUNG = 3
"""Exit code after a run or a load that cannot be stopped. A supervisor restarts the process."""


def end_process(code: int) -> None:
    """End the process now, whatever its threads do."""
    if code == EXIT_HUNG:
        log.critical("the process ends with exit code %d: its work cannot be stopped", code)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # closed
            stream.flush()
    os._exit(code)


def end_process_after(seconds: float, code: int) -> None:
    """End the process after `seconds`, whatever its threads do, unless it has ended by itself."""
    timer = threading.Timer(seconds, end_process, (code,))
    timer.daemon = True
    timer.start()

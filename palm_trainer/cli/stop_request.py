"""Requests to stop a training: signals, and output that nobody can see."""

import signal
import sys
import threading
from typing import Any

from palm_serve.system.program import OutputLost


class StopRequest:
    """Request to stop by signal, or because nobody can see the output. The training finishes its step, saves and stops.

    A second SIGINT or SIGTERM ends a single process at once. With several processes torchrun sends a second signal
    itself, and ends every process that takes too long. SIGHUP comes when a terminal goes away, often more than once,
    so it never ends at once. `nohup` ignores it from the start, which it stays.
    """

    def __init__(self, *, single_process: bool = True) -> None:
        self.requested = False
        self.exit_code = 128 + signal.SIGINT
        self.output_is_lost = False
        self._single_process = single_process

    def listen(self) -> None:
        """Take the signals from here on. Before, they end the program at once: there is nothing to save."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._handle)
            signal.signal(signal.SIGTERM, self._handle)
            if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
                signal.signal(signal.SIGHUP, self._handle)

    def _handle(self, number: int, _frame: Any) -> None:
        if not self.requested:
            self.exit_code = 128 + number
        self.requested = True
        if self._single_process and number != signal.SIGHUP:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    def lose_output(self, lost: OutputLost) -> None:
        """Stop the training, whose output cannot be written."""
        if not self.requested:
            self.exit_code = lost.exit_code
        self.requested = True
        self.output_is_lost = True
        if not lost.reader_has_gone:
            print(f"error: {lost}", file=sys.stderr)

    def __call__(self) -> bool:
        """Return True once the training shall stop."""
        return self.requested

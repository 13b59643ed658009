"""The process of the resolvers, as the server sees it: asked with a limit of time, ended and started anew where it exceeds it."""

import importlib.util
import os
import select
import subprocess
import sys
import threading
import time
import weakref

from palm_serve.errors import BundleError
from palm_serve.system.installation import how_to_install
from palm_serve.values.question import FAILED, READY, UNKNOWN, Question, Reading

ANSWER_LIMIT_S = 0.2
"""Seconds after which the process is ended. Half of the values are read in less than a millisecond."""
_START_LIMIT_S = 60.0
_RESTART_PAUSE_S = 1.0
"""Seconds between two starts, so that values that stop the process cost little."""
_MODULES = ("duckling", "jionlp")


class Unanswered(Exception):
    """A question that got no answer. `reason` is a label for metrics: failed, timeout or restarting."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ResolverProcess:
    """Asks the process. Safe from any thread.

    Raises:
        BundleError: the libraries are not installed, or the process does not start.
    """

    def __init__(self, command: tuple[str, ...] = (), answer_limit_s: float = ANSWER_LIMIT_S) -> None:
        self._command = command or (sys.executable, "-m", "palm_serve.values.resolver_worker")
        self._answer_limit_s = answer_limit_s
        self._lock = threading.Lock()
        self._started = 0.0
        self._buffer = b""
        self._is_ready = False
        self._start()
        if self._read_line(_START_LIMIT_S) != READY:
            self._end()
            raise BundleError(
                f"the resolvers must start within {_START_LIMIT_S:g} s, got no answer. "
                f"`{' '.join(self._command)}` says why. To install them again, {how_to_install('values')}"
            )
        self._is_ready = True

    def ask(self, question: Question) -> Reading | None:
        """Return the meaning of a value; None if no library knows it.

        Raises:
            Unanswered: a library failed, took too long, or the process is being started anew.
        """
        with self._lock:
            self._wait_until_ready()
            try:
                assert self._process.stdin is not None
                self._process.stdin.write(question.to_line())
            except OSError:
                self._restart()
                raise Unanswered("failed") from None
            line = self._read_line(self._answer_limit_s)
            if line is None:
                self._restart()
                raise Unanswered("timeout" if self._has_timed_out else "failed")
            if line == FAILED:
                raise Unanswered("failed")
            return None if line == UNKNOWN else Reading.from_line(line)

    @property
    def pid(self) -> int:
        """Id of the process."""
        return self._process.pid

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def _wait_until_ready(self) -> None:
        """Raise Unanswered while the process starts."""
        if self._is_ready:
            return
        if self._process.poll() is not None:
            if time.monotonic() - self._started < _RESTART_PAUSE_S:
                raise Unanswered("restarting")
            self._end()
            self._start()
        if self._read_line(0.0) != READY:
            raise Unanswered("restarting")
        self._is_ready = True

    def _start(self) -> None:
        self._is_ready = False
        self._buffer = b""
        self._started = time.monotonic()
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
        )
        self._finalizer = weakref.finalize(self, _kill, self._process)

    def _restart(self) -> None:
        has_just_started = time.monotonic() - self._started < _RESTART_PAUSE_S
        self._end()
        if not has_just_started:
            self._start()

    def _end(self) -> None:
        self._is_ready = False
        self._finalizer()

    def _read_line(self, limit_s: float) -> bytes | None:
        """Return the next line; None if it does not come in time, or the process has ended."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline = time.monotonic() + limit_s
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        self._has_timed_out = False
        while b"\n" not in self._buffer:
            if not poll.poll(max(0.0, 1000 * (deadline - time.monotonic()))):
                self._has_timed_out = True
                return None
            chunk = os.read(descriptor, 65536)
            if not chunk:
                return None
            self._buffer += chunk
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line + b"\n"


def _kill(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()


def check_installed() -> None:
    """Check that the libraries are there, without loading them.

    Raises:
        BundleError: one of them is not.
    """
    for module in _MODULES:
        if importlib.util.find_spec(module) is None:
            raise BundleError(
                f"the bundle resolves values (dates, numbers, ...), which needs the package of the module '{module}', "
                f"and it is not installed. To install it, {how_to_install('values')}"
            )

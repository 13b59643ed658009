"""A command line program in its surroundings: standard streams, signals and exit codes. All three programs use it."""

import codecs
import errno
import io
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, NoReturn, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

PIPE_CLOSED = 128 + signal.SIGPIPE
"""Exit code when the reader of standard output has gone, as that of other programs."""
BAD_INPUT = 2
"""Exit code for what the user can mend."""
END_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
"""Signals that end a program with the exit code 128 + number, after it has removed its unfinished files."""
_ESCAPE = "palm_serve.escape"


class OutputLost(SystemExit):
    """Standard output cannot be written any more. What is written later is discarded.

    It ends a program like any other exit. A training and a server catch it and go on.

    Args:
        error: why a write failed.
    """

    def __init__(self, error: OSError) -> None:
        self.reader_has_gone = error.errno == errno.EPIPE
        self.exit_code = PIPE_CLOSED if self.reader_has_gone else BAD_INPUT
        self._reason = error.strerror or str(error)
        super().__init__(self.exit_code)

    def __str__(self) -> str:
        """Return the message for the user."""
        return f"standard output cannot be written: {self._reason}"


class _StreamFile(io.FileIO):
    """The file of standard output or standard error. A failed write discards everything after it."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)

    def write(self, data: "ReadableBuffer") -> int:
        """Write some bytes. Raise OutputLost when that fails, unless it is standard error."""
        try:
            return super().write(data)
        except OSError as error:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            if self.fileno() == 1:
                raise OutputLost(error) from None
            return len(bytes(data))


def run_program(name: str, command: Callable[[], int | None]) -> NoReturn:
    """Run a command and exit.

    Text that the terminal cannot show is written as JSON escapes, so that JSON stays right. Where standard output is
    closed, nothing is written. Its reader may go away: exit code 141, without a message.

    Args:
        name: of the program, for the message.
        command: returns the exit code, or exits.
    """
    _prepare_streams()
    _end_by_signals()
    try:
        code = _exit_code(command)
        sys.stdout.flush()
    except OutputLost as lost:
        if not lost.reader_has_gone:
            sys.stderr.write(f"{name}: {lost}\n")
        code = lost.exit_code
    sys.exit(code)


def _exit_code(command: Callable[[], int | None]) -> int:
    try:
        return command() or 0
    except OutputLost:
        raise
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)


def _prepare_streams() -> None:
    """Replace standard output and standard error by streams that no text and no failed write breaks."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it takes the lowest number that is free, which no other file may have
    codecs.register_error(_ESCAPE, _escape)
    sys.stdout = _open_stream(sys.stdout, sys.__stdout__, 1)
    sys.stderr = _open_stream(sys.stderr, sys.__stderr__, 2)


def _open_stream(stream: TextIO | None, original: TextIO | None, descriptor: int) -> TextIO:
    if stream is None:  # closed when the program was started
        return open(os.devnull, "w", encoding="utf-8")
    if stream is not original or not isinstance(stream, io.TextIOWrapper):
        return stream
    stream.flush()
    file = _StreamFile(descriptor)
    return io.TextIOWrapper(
        file if stream.write_through else io.BufferedWriter(file),
        encoding=stream.encoding,
        errors=_ESCAPE,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _escape(error: UnicodeError) -> tuple[str, int]:
    r"""Write what an encoding lacks as `\uXXXX`, beyond 16 bits as a pair of them: an escape of JSON."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    escapes = []
    for position in range(0, len(text), 2):
        escapes.append(rf"\u{text[position : position + 2].hex()}")
    return "".join(escapes), error.end


def _end_by_signals() -> None:
    """Let signals end the program like an exit, so that unfinished files are removed. Ignored ones stay ignored."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in END_SIGNALS:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _exit_by_signal)


def _exit_by_signal(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)

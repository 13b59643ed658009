"""Errors of serving, in one tree. `rpc/messages/status.py` holds the only table from errors to gRPC status codes.

PalmServeError
├── InvalidRequest     the client sent something unusable        -> INVALID_ARGUMENT
├── NotFound           no such model, version or label           -> NOT_FOUND
├── Overloaded         the queue is full                         -> RESOURCE_EXHAUSTED
│   └── Unmeetable     its deadline cannot be met                -> RESOURCE_EXHAUSTED
├── DeadlineExceeded   expired while it waited                   -> DEADLINE_EXCEEDED
├── Unavailable        loading or draining                       -> UNAVAILABLE
├── Unauthenticated    no token, or one that is not valid        -> UNAUTHENTICATED
├── NotAllowed         switched off, or not for this token       -> PERMISSION_DENIED
├── BundleError        a bundle that cannot be loaded            (start-up, not a request)
├── BindError          the address cannot be listened on         (start-up)
├── TlsError           certificates that cannot serve            (start-up)
├── TokenFileError     tokens that cannot be read                (start-up)
├── ConfigError        options that cannot be used               (start-up)
├── BatchError         inputs or an output that cannot be used   (`palm-serve batch`)
├── StorageError       files of a URL that cannot be used        (start-up)
│   ├── StorageLacks   they are not there
│   └── StorageUnreachable  nobody answers
└── EngineError        no provider, a session that fails         (start-up), else INTERNAL
    ├── EngineTimeout  a run of the engine took too long         -> INTERNAL, with its message
    └── ProviderMissing  libraries or device are not there       (start-up)
"""

import re

_LONGEST_WORD = 300
"""Characters that a value without blanks may have in a message: more than nearly all paths."""
_LONGEST_LINE = 1000
_MOST_LINES = 100
_EDGE = 100
"""Characters at the beginning and at the end of a long value that are shown."""
_LONG_WORD = re.compile(rf"\S{{{_LONGEST_WORD + 1},}}")
_LONG_QUOTE = re.compile(rf"'[^'\n]{{{_LONGEST_WORD + 1},}}'|\"[^\"\n]{{{_LONGEST_WORD + 1},}}\"")


def shorten_message(message: str) -> str:
    """Return a message with the middle of long values left out, and with 100 lines at most.

    Values of users can have any length. What the message says about them must stay visible. Messages of both packages
    pass through here, so that no message has to shorten its values itself.
    """
    lines = message.split("\n")
    further_lines = len(lines) - _MOST_LINES
    shown_lines = list(map(_shorten_line, lines[:_MOST_LINES]))
    if further_lines > 0:
        shown_lines.append(f"... and {further_lines:,} further lines")
    return "\n".join(shown_lines)


def _shorten_line(line: str) -> str:
    line = _LONG_WORD.sub(_leave_out_middle, line)
    if len(line) > _LONGEST_LINE:
        line = _LONG_QUOTE.sub(_leave_out_middle, line)
    if len(line) <= _LONGEST_LINE:
        return line
    edge = _LONGEST_LINE // 2 - _EDGE
    return f"{line[:edge]}... ({len(line) - 2 * edge:,} characters left out) ...{line[-edge:]}"


def _leave_out_middle(match: re.Match[str]) -> str:
    value = match[0]
    return f"{value[:_EDGE]}... ({len(value) - 2 * _EDGE:,} characters left out) ...{value[-_EDGE:]}"


class PalmServeError(Exception):
    """Base of every error that serving raises on purpose. The message names the problem, the value, the limit and a fix."""

    def __str__(self) -> str:
        """Return the message, with long values shortened."""
        return shorten_message(super().__str__())


class InvalidRequest(PalmServeError):
    """The request cannot be answered as sent. `field` names the invalid field."""

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class NotFound(PalmServeError):
    """No such model, version, label or task."""


class Overloaded(PalmServeError):
    """The queue is full. Try again after `retry_after_s` seconds. `reason` is a label for metrics."""

    reason = "queue_full"

    def __init__(self, message: str, retry_after_s: float = 1.0, reason: str = "") -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.reason = reason or self.reason


class Unmeetable(Overloaded):
    """The request's deadline would pass before its answer."""

    reason = "deadline"


class DeadlineExceeded(PalmServeError):
    """The request's deadline passed while it waited."""


class Unavailable(PalmServeError):
    """The server is loading or draining. Another replica can answer."""


class Unauthenticated(PalmServeError):
    """The server requires a token, and that of the call is missing, unknown, revoked or expired."""


class NotAllowed(PalmServeError):
    """The operation is switched off on this server, or the token does not allow it."""


class BundleError(PalmServeError):
    """A bundle is missing, damaged, or of a format that this version cannot read."""


class BindError(PalmServeError):
    """The server cannot listen on its address."""


class TlsError(PalmServeError):
    """A certificate, its key or its authority cannot be read, or they do not match."""


class TokenFileError(PalmServeError):
    """The token file is missing or not valid."""


class ConfigError(PalmServeError):
    """Options of the command line, the environment or the file are not valid. Each fault has a line."""


class BatchError(PalmServeError):
    """The inputs or the output of a batch cannot be used, or hold something else than expected."""


class StorageError(PalmServeError):
    """Files of an object store or of the Hub cannot be used."""


class StorageLacks(StorageError):
    """The object, the bucket or the repository is not there."""


class StorageUnreachable(StorageError):
    """Nobody answers, or the connection was cut."""


class EngineError(PalmServeError):
    """No usable execution provider, or a session failed."""


class EngineTimeout(EngineError):
    """A run of the engine was stopped, because it took too long or the server stops."""


class ProviderMissing(EngineError):
    """An execution provider cannot be used for any graph, because its libraries or its device are missing."""


def one_line(error: BaseException) -> str:
    """Return the message of an error on one line. Those of the runtimes have several."""
    return " ".join(str(error).split())


def check_text(text: str, field: str, max_bytes: int | None = None) -> None:
    """Check that a text is not blank and not too long.

    Args:
        text: the text.
        field: name of its field, for the error.
        max_bytes: largest size in UTF-8. None: unlimited.

    Raises:
        InvalidRequest: the text is blank or too long.
    """
    if not text or text.isspace():
        content = "a blank text" if text else "an empty text"
        raise InvalidRequest(f"{field} must have at least one visible character, got {content}. Send some text.", field)
    if max_bytes is not None:
        size = len(text.encode())
        if size > max_bytes:
            raise InvalidRequest(
                f"{field} must have at most {max_bytes:,} bytes, got {size:,}. Shorten or split it.", field
            )


def check_unicode(text: str, field: str) -> str:
    """Return the text if it can be encoded as UTF-8.

    Args:
        text: the text.
        field: name of its field, for the error.

    Raises:
        InvalidRequest: the text has a lone surrogate.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"{field} must be valid Unicode, got a lone surrogate at position {error.start}. Remove it.", field
        ) from None
    return text

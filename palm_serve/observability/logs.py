"""Logging: text or JSON lines, and the access log of finished calls. Request texts are left out by default."""

import json
import logging
import re
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, TextIO

from palm_serve.errors import PalmServeError
from palm_serve.system.plain_text import plain, plain_json
from palm_serve.types import CallRecord

ACCESS = "palm_serve.access"
"""Name of the logger of finished calls."""

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
"""Header of W3C Trace Context."""
_SERVER_FAULTS = frozenset(
    {"INTERNAL", "UNKNOWN", "DATA_LOSS", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "UNAVAILABLE"}
)
"""Status codes of server faults and of overload."""
_VERSION_CHARACTERS = 12
"""Characters of a bundle digest in a log line."""
_LIBRARIES = ("asyncio", "grpc", "opentelemetry")
_LINES_PER_SECOND = 10
"""Limit for each status code: logging must not add to an overload."""


class TextFormatter(logging.Formatter):
    """Formats a record as one line of text, followed by the traceback of an error.

    The message of an unexpected error may quote the request, so it is left out unless `texts` is true.
    """

    def __init__(self, texts: bool = False) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._texts = texts

    def format(self, record: logging.LogRecord) -> str:
        """Format a record without the traceback that another formatter has cached in it, and cache none.

        `logging.Formatter` keeps the text of a traceback in `record.exc_text`, and every later handler prints that text.
        A text cached elsewhere may quote the request, and the outline of this formatter hides messages from other handlers.
        """
        cached_text = record.exc_text
        record.exc_text = None
        try:
            return super().format(record)
        finally:
            record.exc_text = cached_text

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  the name is logging's
        """Escape control characters, so that values sent by a client cannot forge a log line."""
        return plain(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802  the name is logging's
        """Format the traceback of an error."""
        error = ei[1]
        if self._texts or error is None:
            return plain(super().formatException(ei), keep="\n")
        return plain("\n".join(_outline(error)), keep="\n")


class JsonFormatter(TextFormatter):
    """Formats a record as one JSON object a line.

    The keys are time, level, logger, message, the entries of `extra={"fields": {...}}`, and the exception of an error.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Format a record as JSON."""
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return plain_json(json.dumps(line, ensure_ascii=False, default=str))


class AccessLog:
    """Logs finished calls.

    Server faults, refusals and slow calls are warnings, at most ten a second for each status code.
    Client errors are logged at level info, all other calls at level debug.

    Args:
        every_call: log all calls except health checks at level info, without a limit.
        slow_ms: unary calls that take at least this many milliseconds are slow. None: no call is slow.
        clock: returns the current time in seconds.
    """

    def __init__(
        self, every_call: bool = False, slow_ms: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._log = logging.getLogger(ACCESS)
        self._every_call = every_call
        self._slow_s = float("inf") if slow_ms is None else slow_ms / 1000
        self._clock = clock
        self._logged: dict[str, tuple[int, int]] = {}
        """Status code -> the second of its last line, and the number of calls in that second."""

    def __call__(self, record: CallRecord) -> None:
        """Log a finished call."""
        slow = record.seconds >= self._slow_s and not record.stream
        level = self._level(record, slow)
        if not self._log.isEnabledFor(level):
            return
        omitted = 0
        if level == logging.WARNING and not self._every_call:
            second = int(self._clock())
            last_second, calls = self._logged.get(record.code, (0, 0))
            if second == last_second and calls >= _LINES_PER_SECOND:
                self._logged[record.code] = (last_second, calls + 1)
                return
            if second == last_second:
                self._logged[record.code] = (second, calls + 1)
            else:
                self._logged[record.code] = (second, 1)
                omitted = max(0, calls - _LINES_PER_SECOND)
        self._write(record, level, slow, omitted)

    def _write(self, record: CallRecord, level: int, slow: bool, omitted: int) -> None:
        fields = call_fields(record)
        if slow:
            fields["slow"] = True
        suffix = ""
        if omitted:
            fields["left_out"] = omitted
            suffix = f"; {omitted:,} more calls with this code were not logged"
        values = record.method, record.code, record.seconds * 1000, record.client, record.request_id, suffix
        self._log.log(level, "%s %s in %.2f ms for %s, request %s%s", *values, extra={"fields": fields})

    def _level(self, record: CallRecord, slow: bool) -> int:
        if record.health:  # probes call every few seconds
            return logging.DEBUG
        if slow or (record.code in _SERVER_FAULTS and not record.draining):
            return logging.WARNING
        return logging.INFO if self._every_call or record.code != "OK" else logging.DEBUG


def call_fields(record: CallRecord) -> dict[str, Any]:
    """Return the fields of a call's log line. Durations are milliseconds, and the longest where there are several texts."""
    fields: dict[str, Any] = {
        "method": record.method,
        "door": record.door,
        "code": record.code,
        "ms": round(record.seconds * 1000, 2),
        "client": record.client,
        "request_id": record.request_id,
    }
    trace_id = record.trace_id or _trace_id(record.traceparent)
    if trace_id:
        fields["trace_id"] = trace_id
    for name in ("reason", "request_bytes", "response_bytes", "texts"):
        value = getattr(record, name)
        if value:
            fields[name] = value
    if not record.answered:
        return fields
    fields["model"] = ",".join(dict.fromkeys(answer.model for answer in record.answered))
    fields["version"] = ",".join(dict.fromkeys(answer.version[:_VERSION_CHARACTERS] for answer in record.answered))
    for name in ("tokenize", "queue", "inference", "decode"):
        longest_us = max(getattr(answer.timings, f"{name}_us") for answer in record.answered)
        fields[f"{name}_ms"] = round(longest_us / 1000, 2)
    fields["batch_rows"] = max(answer.timings.batch_size for answer in record.answered)
    return fields


def configure_logging(
    level: str = "info",
    json_lines: bool = False,
    stream: TextIO | None = None,
    texts: bool = False,
    every_call: bool = False,
) -> None:
    """Configure the loggers of palm_serve, and those of asyncio, grpc and OpenTelemetry from level warning on.

    Args:
        level: debug, info, warning or error.
        json_lines: write JSON objects instead of text.
        stream: where lines are written. None: standard error.
        texts: allow error messages that may quote requests.
        every_call: log every call at level info, whatever the level.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(texts) if json_lines else TextFormatter(texts))
    handler.addFilter(_is_relevant)
    number = logging.getLevelNamesMapping()[level.upper()]
    for name in ("palm_serve", *_LIBRARIES):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(max(logging.WARNING, number) if name in _LIBRARIES else number)
        logger.propagate = False
    logging.getLogger(ACCESS).setLevel(min(logging.INFO, number) if every_call else logging.NOTSET)


def _is_relevant(record: logging.LogRecord) -> bool:
    """Drop the error that gRPC logs when a client has disconnected before its response was written."""
    return not (record.name.startswith("grpc") and record.getMessage().startswith("ExecuteBatchError raised in core"))


def _trace_id(traceparent: str) -> str:
    """Return the caller's trace id, so that calls can be found in the log where this server sends no traces."""
    match = _TRACEPARENT.match(traceparent)
    return match[1] if match else ""


def _outline(error: BaseException) -> list[str]:
    """Return the frames of an error and of its causes, with the messages that cannot quote a request."""
    lines: list[str] = []
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        lines += [*_outline(cause), "and then:"]
    lines += ["Traceback (most recent call last):", "".join(traceback.format_tb(error.__traceback__)).rstrip()]
    safe = isinstance(error, PalmServeError | OSError)
    lines.append(f"{type(error).__qualname__}: {error if safe else '(may quote the request; --log-text shows it)'}")
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            lines += ["of which:", *_outline(member)]
    return lines

"""The log: text or JSON lines, and what it tells of calls. Request texts stay out of it."""

import json
import logging
import re
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, TextIO

from palm_serve.errors import PalmServeError
from palm_serve.types import CallRecord

ACCESS = "palm_serve.access"
"""The logger of calls."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
"""W3C Trace Context."""
_OURS = frozenset({"INTERNAL", "UNKNOWN", "DATA_LOSS", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "UNAVAILABLE"})
"""Codes that are the server's fault, or tell that it has too much to do."""
_VERSION = 12
"""Characters of a digest."""
_OTHERS = ("asyncio", "grpc", "opentelemetry")
_LINES = 10
"""Of one code, per second: under overload the log must not become the load."""


class TextFormatter(logging.Formatter):
    """A line of text, and below it where an error was raised.

    An error that was not meant for a reader may quote the request in its message, so that is left out unless `texts`.
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
        """The line, in which what a client sent, such as its request id, cannot start another."""
        return _CONTROL.sub(lambda found: repr(found[0])[1:-1], super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802  the name is logging's
        """The traceback of an error."""
        return super().formatException(ei) if self._texts or ei[1] is None else "\n".join(_outline(ei[1]))


class JsonFormatter(TextFormatter):
    """One JSON object a line: time, level, logger, message, what was given as `extra={"fields": {...}}`, and the traceback of an error."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class AccessLog:
    """Tells of calls that have ended: failures of the server, refusals and slow calls as warnings, no more than ten lines a second of a code.

    What a client did wrong is told at level info, the rest at level debug.

    Args:
        every_call: all but health checks at level info, as many as there are.
        slow_ms: from how long on a unary call is slow; None: none is.
        clock: seconds.
    """

    def __init__(
        self, every_call: bool = False, slow_ms: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._log = logging.getLogger(ACCESS)
        self._every_call = every_call
        self._slow_s = float("inf") if slow_ms is None else slow_ms / 1000
        self._clock = clock
        self._told: dict[str, tuple[int, int]] = {}
        """Code -> the second of its last line, and the calls since it began."""

    def __call__(self, record: CallRecord) -> None:
        """Takes a call."""
        slow = record.seconds >= self._slow_s and not record.stream
        level = self._level(record, slow)
        if not self._log.isEnabledFor(level):
            return
        left_out = 0
        if level == logging.WARNING and not self._every_call:
            second, (last, calls) = int(self._clock()), self._told.get(record.code, (0, 0))
            if second == last and calls >= _LINES:
                self._told[record.code] = (last, calls + 1)
                return
            left_out = max(0, calls - _LINES) if second != last else 0
            self._told[record.code] = (second, calls + 1 if second == last else 1)
        fields = call_fields(record)
        if slow:
            fields["slow"] = True
        if left_out:
            fields["left_out"] = left_out
        told = "%s %s in %.2f ms for %s, request %s%s"
        more = f"; {left_out:,} more of this code were not told" if left_out else ""
        values = record.method, record.code, record.seconds * 1000, record.client, record.request_id, more
        self._log.log(level, told, *values, extra={"fields": fields})

    def _level(self, record: CallRecord, slow: bool) -> int:
        if record.health:  # asked for every few seconds, by everybody
            return logging.DEBUG
        if slow or (record.code in _OURS and not record.draining):
            return logging.WARNING
        return logging.INFO if self._every_call or record.code != "OK" else logging.DEBUG


def call_fields(record: CallRecord) -> dict[str, Any]:
    """What a line tells of a call. Durations are milliseconds; of several texts the longest."""
    fields: dict[str, Any] = {
        "method": record.method,
        "code": record.code,
        "ms": round(record.seconds * 1000, 2),
        "client": record.client,
        "request_id": record.request_id,
    }
    if trace := record.trace_id or _trace_id(record.traceparent):
        fields["trace_id"] = trace
    for name in ("reason", "request_bytes", "response_bytes", "texts"):
        if value := getattr(record, name):
            fields[name] = value
    if record.answered:
        fields["model"] = ",".join(dict.fromkeys(one.model for one in record.answered))
        fields["version"] = ",".join(dict.fromkeys(one.version[:_VERSION] for one in record.answered))
        for name in ("tokenize", "queue", "inference", "decode"):
            longest = max(getattr(one.timings, f"{name}_us") for one in record.answered)
            fields[f"{name}_ms"] = round(longest / 1000, 2)
        fields["batch_rows"] = max(one.timings.batch_size for one in record.answered)
    return fields


def _trace_id(traceparent: str) -> str:
    """That of the caller: its calls can be found in the log also where this server sends no traces."""
    found = _TRACEPARENT.match(traceparent)
    return found[1] if found else ""


def configure_logging(
    level: str = "info",
    json_lines: bool = False,
    stream: TextIO | None = None,
    texts: bool = False,
    every_call: bool = False,
) -> None:
    """Sends the log to `stream` (standard error), as text or as JSON lines. Replaces an earlier configuration.

    What asyncio, grpc and OpenTelemetry have to tell goes there too, from warnings on.

    Args:
        texts: errors may quote requests.
        every_call: calls are told whatever the level.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(texts) if json_lines else TextFormatter(texts))
    handler.addFilter(_matters)
    wanted = logging.getLevelNamesMapping()[level.upper()]
    for name in ("palm_serve", *_OTHERS):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(max(logging.WARNING, wanted) if name in _OTHERS else wanted)
        logger.propagate = False
    logging.getLogger(ACCESS).setLevel(min(logging.INFO, wanted) if every_call else logging.NOTSET)


def _matters(record: logging.LogRecord) -> bool:
    """What gRPC calls an error though a client merely left: an answer that could not be sent while the news of it was on its way."""
    return not (record.name.startswith("grpc") and record.getMessage().startswith("ExecuteBatchError raised in core"))


def _outline(error: BaseException) -> list[str]:
    """The frames of an error and of what led to it. Only messages that cannot quote a request are shown."""
    lines: list[str] = []
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None:
        lines += [*_outline(before), "and then:"]
    lines += ["Traceback (most recent call last):", "".join(traceback.format_tb(error.__traceback__)).rstrip()]
    safe = isinstance(error, PalmServeError | OSError)
    lines.append(f"{type(error).__qualname__}: {error if safe else '(may quote the request; --log-text shows it)'}")
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            lines += ["of which:", *_outline(part)]
    return lines

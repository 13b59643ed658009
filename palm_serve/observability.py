"""What an operator sees: Prometheus metrics and the log. Request texts appear in neither."""

import json
import logging
import re
import sys
import traceback
from typing import Any, TextIO

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram

from palm_serve.batching import Ran
from palm_serve.errors import PalmServeError

_SECONDS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1, 2, 4)
_DROPPED = ("refused", "unmeetable", "expired", "cancelled")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """All metrics of a server. `registry` is where they are published; the process's own by default."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.registry = registry
        self.requests = Counter(
            "palm_requests", "Calls answered, by method and status code.", ["method", "code"], registry=registry
        )
        self.request_seconds = Histogram(
            "palm_request_seconds",
            "Time from a call's arrival to its answer.",
            ["method"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._queue = Histogram(
            "palm_queue_seconds",
            "Time that a text waited for its batch.",
            ["model"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._service = Histogram(
            "palm_inference_seconds",
            "Time of one batch: model and decoding.",
            ["model"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._rows = Histogram("palm_batch_rows", "Texts of one batch.", ["model"], buckets=_ROWS, registry=registry)
        self._tokens = Counter("palm_tokens", "Tokens of the texts that were run.", ["model"], registry=registry)
        self._padding = Counter(
            "palm_padding_tokens",
            "Tokens computed as padding; its share is this over the sum of both.",
            ["model"],
            registry=registry,
        )
        self._dropped = Counter(
            "palm_dropped",
            "Texts that cost no row of the model: refused (queue full), unmeetable (refused for their deadline), expired, cancelled.",
            ["model", "reason"],
            registry=registry,
        )
        self._engine = Histogram(
            "palm_engine_seconds",
            "Time that one batch held the engine.",
            ["model"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._vain = Counter(
            "palm_vain_rows",
            "Rows computed for nobody: late (the caller left or its deadline passed while the batch ran) and wasted (before it ran; meant to be 0).",
            ["model", "reason"],
            registry=registry,
        )

    def answered(self, method: str, code: str, seconds: float) -> None:
        """Counts one call of the gRPC door; `code` is the status code's name."""
        self.requests.labels(method, code).inc()
        self.request_seconds.labels(method).observe(seconds)

    def for_model(self, name: str) -> "ModelMetrics":
        """The observer of one model's scheduler."""
        return ModelMetrics(
            queue=self._queue.labels(name),
            service=self._service.labels(name),
            rows=self._rows.labels(name),
            tokens=self._tokens.labels(name),
            padding=self._padding.labels(name),
            dropped={reason: self._dropped.labels(name, reason) for reason in _DROPPED},
            engine=self._engine.labels(name),
            vain={reason: self._vain.labels(name, reason) for reason in ("late", "wasted")},
        )


class ModelMetrics:
    """A `batching.Observer` that counts. Made by `Metrics.for_model`."""

    def __init__(
        self,
        queue: Histogram,
        service: Histogram,
        rows: Histogram,
        tokens: Counter,
        padding: Counter,
        dropped: dict[str, Counter],
        engine: Histogram,
        vain: dict[str, Counter],
    ) -> None:
        self._queue, self._service, self._rows = queue, service, rows
        self._tokens, self._padding, self._dropped = tokens, padding, dropped
        self._engine, self._vain = engine, vain

    def ran(self, batch: Ran) -> None:
        """A batch ran."""
        self._rows.observe(batch.rows)
        self._tokens.inc(batch.tokens)
        self._padding.inc(batch.padded_tokens - batch.tokens)
        self._engine.observe(batch.engine_s)
        self._service.observe(batch.service_s)
        self._vain["late"].inc(batch.late)
        self._vain["wasted"].inc(batch.wasted)
        for wait in batch.waits_s:
            self._queue.observe(wait)

    def refused(self) -> None:
        """A request found the queue full."""
        self._dropped["refused"].inc()

    def unmeetable(self) -> None:
        """A request was refused because its deadline could not be met."""
        self._dropped["unmeetable"].inc()

    def expired(self) -> None:
        """A request's deadline passed, or could not be met any more, before a row was spent on it."""
        self._dropped["expired"].inc()

    def cancelled(self) -> None:
        """A request was given up before a row was spent on it."""
        self._dropped["cancelled"].inc()


class TextFormatter(logging.Formatter):
    """A line of text, and below it where an error was raised.

    An error that was not meant for a reader may quote the request in its message, so that is left out unless `texts`.
    """

    def __init__(self, texts: bool = False) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._texts = texts

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


def configure_logging(
    level: str = "info", json_lines: bool = False, stream: TextIO | None = None, texts: bool = False
) -> None:
    """Sends the log to `stream` (standard error), as text or as JSON lines. Replaces an earlier configuration.

    What asyncio and grpc have to tell goes there too, from warnings on. `texts`: errors may quote requests.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(texts) if json_lines else TextFormatter(texts))
    for name, least in (("palm_serve", logging.DEBUG), ("asyncio", logging.WARNING), ("grpc", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(max(least, logging.getLevelNamesMapping()[level.upper()]))
        logger.propagate = False


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

"""What an operator sees: Prometheus metrics and the log. Request texts appear in neither."""

import json
import logging
import sys
from typing import TextIO

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram

from palm_serve.batching import Ran

_SECONDS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1, 2, 4)
_DROPPED = ("refused", "unmeetable", "expired", "cancelled")
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


class JsonFormatter(logging.Formatter):
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


def configure_logging(level: str = "info", json_lines: bool = False, stream: TextIO | None = None) -> None:
    """Sends the log of `palm_serve` to `stream` (standard error), as text or as JSON lines. Replaces an earlier configuration."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        JsonFormatter() if json_lines else logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    )
    logger = logging.getLogger("palm_serve")
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False

"""Prometheus metrics of calls, batches and the process. Those of model versions are in `version_metrics`."""

import os
import ssl
import threading
from collections.abc import Callable, Container
from dataclasses import dataclass
from functools import cache
from typing import Protocol

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from palm_serve.batching import FinishedBatch
from palm_serve.observability.exposition import Check, expose
from palm_serve.types import CallRecord

METRICS_TYPE = CONTENT_TYPE_LATEST
"""Content type of `Metrics.latest`."""
SECONDS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1, 2, 4, 10)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
_DROPPED = ("refused", "unmeetable", "expired", "cancelled")
_DISCARDED = ("late", "wasted")
_LABELS = ("model", "version")
_VERSION_CHARACTERS = 12
"""Characters of a bundle digest in a label."""
_THREADS = "/proc/self/task"


class ReloadedFile(Protocol):
    """A file that is read again when it changes. Times are Unix seconds."""

    read_at: float
    failed_at: float

    def look(self) -> None:
        """Read the file again if it has changed. Any thread may call this."""


class Metrics:
    """All metrics that calls and batches change.

    Args:
        registry: where the metrics are published. Default: the registry of the process.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        # Creation times double the number of series, and only OpenMetrics uses them.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry
        self._requests = Counter(
            "palm_requests",
            "Finished calls by method, status code and transport.",
            ["method", "code", "door"],
            registry=registry,
        )
        self._request_seconds = Histogram(
            "palm_request_seconds",
            "Seconds from the arrival of a unary call to its response.",
            ["method"],
            buckets=SECONDS,
            registry=registry,
        )
        self._refused = Counter(
            "palm_refused_calls",
            "Calls refused with RESOURCE_EXHAUSTED by reason: queue_full, deadline (cannot be met), client_rate, client_calls (in flight), unread_answers.",
            ["method", "reason"],
            registry=registry,
        )
        # Looking up labels costs more than counting.
        self._requests_of = cache(self._requests.labels)
        self._request_seconds_of = cache(self._request_seconds.labels)
        self._batches = _BatchMetrics(registry)
        self._models: dict[tuple[str, str], ModelMetrics] = {}
        self._read_at = Gauge(
            "palm_reload_success_timestamp_seconds",
            "Unix time at which the file in use was read: certificate, tokens.",
            ["file"],
            registry=registry,
        )
        self._failed_at = Gauge(
            "palm_reload_failure_timestamp_seconds",
            "Unix time of the last failed reload, after which the former contents stay in use. 0: never.",
            ["file"],
            registry=registry,
        )
        threads = Gauge("palm_threads", "Threads of the process, including those of the engine.", registry=registry)
        threads.set_function(_threads)

    def watch(self, in_flight: Callable[[], int], serving: Callable[[], bool]) -> None:
        """Publish gauges whose functions are called by every scrape, on the scrape's thread."""
        calls = Gauge("palm_calls_in_flight", "Calls and streams in progress.", registry=self.registry)
        calls.set_function(in_flight)
        state = Gauge("palm_serving", "1 while the server is neither loading nor draining.", registry=self.registry)
        state.set_function(serving)

    def watch_connections(self, count: Callable[[], int]) -> Callable[[str, int], None]:
        """Publish the open and the refused connections.

        Args:
            count: returns the number of open connections, on the scrape's thread.

        Returns:
            A function to be called with a reason, `total`, `address` or `resets`, and a number of refused connections.
        """
        connections = Gauge(
            "palm_connections", "Open connections of clients, of health checks too.", registry=self.registry
        )
        connections.set_function(count)
        refused = Counter(
            "palm_connections_refused",
            "Connections closed by the limit that they exceeded: total (max_connections), address (of one address), resets (of calls).",
            ["reason"],
            registry=self.registry,
        )
        for reason in ("total", "address", "resets"):
            refused.labels(reason)

        def count_refused(reason: str, number: int) -> None:
            refused.labels(reason).inc(number)

        return count_refused

    def watch_file(self, name: str, file: ReloadedFile) -> None:
        """Publish the times of a file's last read and last failed reload. Every scrape checks the file."""

        def read_at() -> float:
            file.look()
            return file.read_at

        def failed_at() -> float:
            file.look()
            return file.failed_at

        self._read_at.labels(name).set_function(read_at)
        self._failed_at.labels(name).set_function(failed_at)

    def watch_certificate(self, expires: Callable[[], float]) -> None:
        """Publish the expiry of the certificate, in Unix seconds."""
        expiry = Gauge(
            "palm_certificate_expiry_timestamp_seconds",
            "Unix time at which the served certificate, or one of its chain, expires.",
            registry=self.registry,
        )
        expiry.set_function(expires)

    def serve(
        self,
        port: int,
        host: str,
        check: Check | None = None,
        context: Callable[[], ssl.SSLContext] | None = None,
    ) -> None:
        """Serve the metrics over HTTP until the process ends.

        Args:
            port: port to listen on.
            host: address to listen on.
            check: called with the `Authorization` header of each request. None: anyone may read.
            context: returns the TLS context of a new connection. None: without TLS.

        Raises:
            OSError: if the address cannot be listened on.
        """
        expose(self.registry, host, port, check, context)

    def latest(self) -> bytes:
        """Return all metrics in Prometheus' text format. Any thread may call this."""
        return generate_latest(self.registry)

    def __call__(self, record: CallRecord) -> None:
        """Count a finished call."""
        self._requests_of(record.method, record.code, record.door).inc()
        if not record.stream:
            self._request_seconds_of(record.method).observe(record.seconds)
        if record.reason:
            self._refused.labels(record.method, record.reason).inc()

    def for_model(self, name: str, version: str) -> "ModelMetrics":
        """Return the metrics of one model version. A version that is loaded again continues its counts."""
        if (name, version) not in self._models:
            self._models[name, version] = self._batches.for_labels(name, version[:_VERSION_CHARACTERS])
        return self._models[name, version]

    def forget(self, current_versions: Container[tuple[str, str]]) -> None:
        """Remove the series of versions that are not in `current_versions`, pairs of name and version.

        Without this every swap would add series for good.
        """
        for key in list(self._models):
            if key not in current_versions:
                del self._models[key]
                name, version = key
                self._batches.remove(name, version[:_VERSION_CHARACTERS])


class _CounterWithAlias:
    """A counter that is also published under a former name."""

    def __init__(self, counter: Counter, alias: Counter) -> None:
        self._counter = counter
        self._alias = alias

    def inc(self, amount: float = 1) -> None:
        """Add `amount` under both names."""
        self._counter.inc(amount)
        self._alias.inc(amount)


@dataclass(frozen=True, slots=True)
class ModelMetrics:
    """Metrics of one model version, updated as a `batching.Observer`. Made by `Metrics.for_model`."""

    queue: Histogram
    inference: Histogram
    decode: Histogram
    rows: Histogram
    tokens: Histogram
    real: Counter
    padding: Counter
    failures: Counter
    dropped: dict[str, Counter]
    discarded: dict[str, _CounterWithAlias]

    def batch_finished(self, batch: FinishedBatch) -> None:
        """Record a batch that has run."""
        self.rows.observe(batch.rows)
        self.tokens.observe(batch.padded_tokens)
        self.real.inc(batch.tokens)
        self.padding.inc(batch.padded_tokens - batch.tokens)
        self.inference.observe(batch.engine_s)
        self.decode.observe(batch.service_s - batch.engine_s)
        self.discarded["late"].inc(batch.late)
        self.discarded["wasted"].inc(batch.wasted)
        for wait_s in batch.waits_s:
            self.queue.observe(wait_s)

    def refused(self) -> None:
        """Count a request that found the queue full."""
        self.dropped["refused"].inc()

    def unmeetable(self) -> None:
        """Count a request that was refused because its deadline could not be met."""
        self.dropped["unmeetable"].inc()

    def expired(self) -> None:
        """Count a request whose deadline passed, or could no longer be met, before it was run."""
        self.dropped["expired"].inc()

    def cancelled(self) -> None:
        """Count a request that was cancelled before it was run."""
        self.dropped["cancelled"].inc()

    def engine_failed(self) -> None:
        """Count a failure of the engine or of its thread."""
        self.failures.inc()


class _BatchMetrics:
    """The metric families that have the labels model and version."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def histogram(name: str, description: str, buckets: tuple[float, ...]) -> Histogram:
            """Create a histogram.

            Args:
                name: its name.
                description: its help text.
                buckets: upper limits of its buckets.
            """
            return Histogram(name, description, _LABELS, buckets=buckets, registry=registry)

        def counter(name: str, description: str, *more_labels: str) -> Counter:
            return Counter(name, description, (*_LABELS, *more_labels), registry=registry)

        self._queue = histogram("palm_queue_seconds", "Seconds that a text waited for its batch.", SECONDS)
        self._inference = histogram("palm_inference_seconds", "Seconds that the engine ran one batch.", SECONDS)
        self._decode = histogram(
            "palm_decode_seconds", "Seconds from the engine's outputs of one batch to its decoded answers.", SECONDS
        )
        self._rows = histogram("palm_batch_rows", "Texts of one batch.", _ROWS)
        self._tokens = histogram("palm_batch_tokens", "Tokens of one batch, including padding.", _TOKENS)
        self._real = counter("palm_tokens", "Tokens of the texts that were run, without padding.")
        self._padding = counter("palm_padding_tokens", "Padding tokens that were run.")
        self._failures = counter(
            "palm_engine_failures", "Failures of the engine or of its thread. The server restarts the engine."
        )
        self._dropped = counter(
            "palm_dropped",
            "Texts that were not run by reason: refused (queue full), unmeetable (deadline too short), expired, cancelled.",
            "reason",
        )
        self._discarded = counter(
            "palm_discarded_rows",
            "Rows computed although nobody was waiting for them: late (the caller left or its deadline passed during the run), "
            "wasted (before the run, always 0 unless there is a bug).",
            "reason",
        )
        self._discarded_alias = counter(
            "palm_vain_rows", "Deprecated: use palm_discarded_rows_total. Removed in the next version.", "reason"
        )

    def for_labels(self, *labels: str) -> ModelMetrics:
        """Return the metrics of one version. All series start at 0, so that rates work from the beginning."""
        dropped: dict[str, Counter] = {}
        for reason in _DROPPED:
            dropped[reason] = self._dropped.labels(*labels, reason)
        discarded: dict[str, _CounterWithAlias] = {}
        for reason in _DISCARDED:
            discarded[reason] = _CounterWithAlias(
                self._discarded.labels(*labels, reason), self._discarded_alias.labels(*labels, reason)
            )
        return ModelMetrics(
            queue=self._queue.labels(*labels),
            inference=self._inference.labels(*labels),
            decode=self._decode.labels(*labels),
            rows=self._rows.labels(*labels),
            tokens=self._tokens.labels(*labels),
            real=self._real.labels(*labels),
            padding=self._padding.labels(*labels),
            failures=self._failures.labels(*labels),
            dropped=dropped,
            discarded=discarded,
        )

    def remove(self, *labels: str) -> None:
        """Remove the series of one version."""
        for histogram in (self._queue, self._inference, self._decode, self._rows, self._tokens):
            histogram.remove(*labels)
        for counter in (self._real, self._padding, self._failures):
            counter.remove(*labels)
        for reason in _DROPPED:
            self._dropped.remove(*labels, reason)
        for reason in _DISCARDED:
            self._discarded.remove(*labels, reason)
            self._discarded_alias.remove(*labels, reason)


def _threads() -> int:
    # threading.active_count() counts only Python's threads.
    return len(os.listdir(_THREADS)) if os.path.isdir(_THREADS) else threading.active_count()

"""Prometheus metrics of calls, batches and the process. Those of versions, swaps and shadows are in `version_metrics`."""

import os
import ssl
import threading
from collections.abc import Callable, Container
from dataclasses import dataclass
from functools import cache
from typing import Protocol

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)

from palm_serve.batching import Ran
from palm_serve.observability.exposition import Check, expose
from palm_serve.types import CallRecord

SECONDS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1, 2, 4, 10)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
_DROPPED = ("refused", "unmeetable", "expired", "cancelled")
_VAIN = ("late", "wasted")
_LABELS = ("model", "version")
_VERSION = 12
"""Characters of a digest that a label shows."""
_THREADS = "/proc/self/task"


class Followed(Protocol):
    """A file that is read again when it changes. Times are Unix seconds."""

    read_at: float
    failed_at: float

    def look(self) -> None:
        """Reads it again if it has changed; from any thread."""


class Metrics:
    """All metrics of a server that requests and batches change. `registry` is where they are published; the process's own by default."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.registry = registry
        self._requests = Counter(
            "palm_requests", "Calls answered, by method and status code.", ["method", "code"], registry=registry
        )
        self._request_seconds = Histogram(
            "palm_request_seconds",
            "Time from a unary call's arrival to its answer.",
            ["method"],
            buckets=SECONDS,
            registry=registry,
        )
        self._refused = Counter(
            "palm_refused_calls",
            "Calls answered with RESOURCE_EXHAUSTED: queue_full, deadline (cannot be met), client_rate, client_calls (in flight).",
            ["method", "reason"],
            registry=registry,
        )
        # Looking labels up costs more than counting.
        self._answered, self._took = cache(self._requests.labels), cache(self._request_seconds.labels)
        self._batches = _Batches(registry)
        self._models: dict[tuple[str, str], ModelMetrics] = {}
        self._read_at = Gauge(
            "palm_reload_success_timestamp_seconds",
            "When the file that holds now was read: certificate, tokens.",
            ["file"],
            registry=registry,
        )
        self._failed_at = Gauge(
            "palm_reload_failure_timestamp_seconds",
            "When a file that cannot be used was found last, and what was read before stayed; 0: never.",
            ["file"],
            registry=registry,
        )
        threads = Gauge("palm_threads", "Threads of the process, those of the engine too.", registry=registry)
        threads.set_function(_threads)

    def watch(self, in_flight: Callable[[], int], serving: Callable[[], bool]) -> None:
        """Publishes what is asked at every scrape, in a thread of its own."""
        calls = Gauge("palm_calls_in_flight", "Calls and streams that are being answered.", registry=self.registry)
        calls.set_function(in_flight)
        state = Gauge("palm_serving", "1 while the server neither loads nor drains.", registry=self.registry)
        state.set_function(serving)

    def watch_file(self, name: str, file: Followed) -> None:
        """Publishes when a file was read last, and when it could not be: as it is at the scrape, whether or not anybody calls."""

        def read_at() -> float:
            file.look()
            return file.read_at

        def failed_at() -> float:
            file.look()
            return file.failed_at

        self._read_at.labels(name).set_function(read_at)
        self._failed_at.labels(name).set_function(failed_at)

    def watch_certificate(self, expires: Callable[[], float]) -> None:
        """Publishes when the certificate expires."""
        expiry = Gauge(
            "palm_certificate_expiry_timestamp_seconds",
            "When the certificate that is served expires, or one of its chain.",
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
        """Publishes over HTTP until the process ends; see `exposition.expose`. Raises OSError where it cannot listen."""
        # A series more for each that counts, which only OpenMetrics has a use for.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        expose(self.registry, host, port, check, context)

    def __call__(self, record: CallRecord) -> None:
        """Counts a call that has ended."""
        self._answered(record.method, record.code).inc()
        if not record.stream:
            self._took(record.method).observe(record.seconds)
        if record.reason:
            self._refused.labels(record.method, record.reason).inc()

    def for_model(self, name: str, version: str) -> "ModelMetrics":
        """The observer of one version's scheduler. A version that comes back goes on counting."""
        if (name, version) not in self._models:
            self._models[name, version] = self._batches.of(name, version[:_VERSION])
        return self._models[name, version]

    def forget(self, known: Container[tuple[str, str]]) -> None:
        """Publishes no more of versions that are not among the known names and versions, or every swap would add series for good."""
        for name, version in [key for key in self._models if key not in known]:
            del self._models[name, version]
            self._batches.remove(name, version[:_VERSION])


@dataclass(frozen=True, slots=True)
class ModelMetrics:
    """A `batching.Observer` that counts. Made by `Metrics.for_model`."""

    queue: Histogram
    inference: Histogram
    decode: Histogram
    rows: Histogram
    tokens: Histogram
    real: Counter
    padding: Counter
    failures: Counter
    dropped: dict[str, Counter]
    vain: dict[str, Counter]

    def ran(self, batch: Ran) -> None:
        """A batch ran."""
        self.rows.observe(batch.rows)
        self.tokens.observe(batch.padded_tokens)
        self.real.inc(batch.tokens)
        self.padding.inc(batch.padded_tokens - batch.tokens)
        self.inference.observe(batch.engine_s)
        self.decode.observe(batch.service_s - batch.engine_s)
        self.vain["late"].inc(batch.late)
        self.vain["wasted"].inc(batch.wasted)
        for wait in batch.waits_s:
            self.queue.observe(wait)

    def refused(self) -> None:
        """A request found the queue full."""
        self.dropped["refused"].inc()

    def unmeetable(self) -> None:
        """A request was refused because its deadline could not be met."""
        self.dropped["unmeetable"].inc()

    def expired(self) -> None:
        """A request's deadline passed, or could not be met any more, before a row was spent on it."""
        self.dropped["expired"].inc()

    def cancelled(self) -> None:
        """A request was given up before a row was spent on it."""
        self.dropped["cancelled"].inc()

    def broke(self) -> None:
        """The engine broke, or its thread crashed."""
        self.failures.inc()


class _Batches:
    """What is counted for each version of a model."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def histogram(name: str, told: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(name, told, _LABELS, buckets=buckets, registry=registry)

        def counter(name: str, told: str, *more: str) -> Counter:
            return Counter(name, told, (*_LABELS, *more), registry=registry)

        self._queue = histogram("palm_queue_seconds", "Time that a text waited for its batch.", SECONDS)
        self._inference = histogram("palm_inference_seconds", "Time that one batch held the engine.", SECONDS)
        self._decode = histogram("palm_decode_seconds", "Time of one batch from the engine to its callers.", SECONDS)
        self._rows = histogram("palm_batch_rows", "Texts of one batch.", _ROWS)
        self._tokens = histogram("palm_batch_tokens", "Tokens of one batch, padding counted.", _TOKENS)
        self._real = counter("palm_tokens", "Tokens of the texts that were run.")
        self._padding = counter(
            "palm_padding_tokens", "Tokens computed as padding; its share is this over the sum of both."
        )
        self._failures = counter(
            "palm_engine_failures", "Times that the engine broke, or its thread crashed; it is tried again by itself."
        )
        self._dropped = counter(
            "palm_dropped",
            "Texts that cost no row of the model: refused (queue full), unmeetable (refused for their deadline), expired, cancelled.",
            "reason",
        )
        self._vain = counter(
            "palm_vain_rows",
            "Rows computed for nobody: late (the caller left or its deadline passed while the batch ran) and wasted (before it ran; meant to be 0).",
            "reason",
        )

    def of(self, *labels: str) -> ModelMetrics:
        """Those of one version, there from the start, so that rates work."""
        return ModelMetrics(
            queue=self._queue.labels(*labels),
            inference=self._inference.labels(*labels),
            decode=self._decode.labels(*labels),
            rows=self._rows.labels(*labels),
            tokens=self._tokens.labels(*labels),
            real=self._real.labels(*labels),
            padding=self._padding.labels(*labels),
            failures=self._failures.labels(*labels),
            dropped={reason: self._dropped.labels(*labels, reason) for reason in _DROPPED},
            vain={reason: self._vain.labels(*labels, reason) for reason in _VAIN},
        )

    def remove(self, *labels: str) -> None:
        """Publishes them no more."""
        for one in (self._queue, self._inference, self._decode, self._rows, self._tokens):
            one.remove(*labels)
        for count in (self._real, self._padding, self._failures):
            count.remove(*labels)
        for reason in _DROPPED:
            self._dropped.remove(*labels, reason)
        for reason in _VAIN:
            self._vain.remove(*labels, reason)


def _threads() -> int:
    # Python counts its own only.
    return len(os.listdir(_THREADS)) if os.path.isdir(_THREADS) else threading.active_count()

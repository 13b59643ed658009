"""OpenTelemetry traces over OTLP: a span for each call, and within it queue, run and decode of each batch that answered it.

Spans are made when a call has ended, from the times that were taken anyway, so calls that are not sampled cost next to nothing. Which are sampled is
the caller's decision where there is one, else that of OTEL_TRACES_SAMPLER. Needs the extra `otel`.
"""

import os
import time
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from threading import Thread

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode, format_trace_id, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from palm_serve.types import Answered, CallRecord

_SERVICE = "palm-serve"
_FAULTS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
"""Codes that make a server's span an error, by OpenTelemetry's conventions for RPC."""
_CLOSE_S = 3.0
"""What is not sent by then is lost: a collector that is away must not hold up a stop."""


class Tracing:
    """Sends spans to a collector, from a thread of its own and in batches.

    Args:
        endpoint: as http://HOST:PORT; None: what OTEL_EXPORTER_OTLP_TRACES_ENDPOINT or OTEL_EXPORTER_OTLP_ENDPOINT says.
    """

    def __init__(self, endpoint: str | None = None) -> None:
        # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES go before what is said here.
        given = Resource.create({SERVICE_VERSION: _version()})
        named = "OTEL_SERVICE_NAME" in os.environ or SERVICE_NAME in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
        resource = given if named else given.merge(Resource({SERVICE_NAME: _SERVICE}))
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
        self._tracer = self._provider.get_tracer(_SERVICE, _version())
        self._context = TraceContextTextMapPropagator()

    def __call__(self, record: CallRecord) -> None:
        """Makes the spans of a call, and tells the call the id of its trace. Health checks have none."""
        if record.health:
            return
        caller = {"traceparent": record.traceparent, "tracestate": record.tracestate}
        # Wall clock minus the clock that the times are on.
        shift = time.time_ns() - time.perf_counter_ns()
        ended = record.ended_ns + shift
        span = self._tracer.start_span(
            record.method,
            self._context.extract({key: value for key, value in caller.items() if value}),
            SpanKind.SERVER,
            start_time=ended - int(record.seconds * 1e9),
        )
        record.trace_id = format_trace_id(span.get_span_context().trace_id)
        if span.is_recording():
            _describe(span, record)
            self._batches(span, record.answered, shift)
            span.end(ended)

    def _batches(self, parent: Span, answered: Iterable[Answered], shift: int) -> None:
        """Children: of texts that ran together, one of each."""
        context = set_span_in_context(parent)
        by_batch: dict[tuple[str, str, int], list[Answered]] = {}
        for one in answered:
            by_batch.setdefault((one.model, one.version, one.timings.run_ns), []).append(one)
        for (model, digest, run_ns), members in by_batch.items():
            spent = members[0].timings
            if not run_ns:
                continue
            attributes: dict[str, str | int] = {
                "palm.model": model,
                "palm.version": digest,
                "palm.batch.rows": spent.batch_size,
                "palm.batch.texts_of_call": len(members),
            }
            waited_us = max(one.timings.queue_us for one in members)
            for name, begin_ns, us in (
                ("queue", run_ns - waited_us * 1000, waited_us),
                ("run", run_ns, spent.inference_us),
                ("decode", spent.decode_ns, spent.decode_us),
            ):
                child = self._tracer.start_span(name, context, attributes=attributes, start_time=begin_ns + shift)
                child.end(begin_ns + shift + us * 1000)

    def close(self) -> None:
        """Sends what is left, for three seconds at most."""
        closing = Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(_CLOSE_S)


def _describe(span: Span, record: CallRecord) -> None:
    span.set_attributes(
        {
            "rpc.system": "grpc",
            "rpc.service": record.service,
            "rpc.method": record.method,
            "rpc.grpc.status_code": record.number,
            "palm.request_id": record.request_id,
            "palm.client": record.client,
            "palm.texts": record.texts,
        }
    )
    for name in ("request_bytes", "response_bytes", "reason"):
        if value := getattr(record, name):
            span.set_attribute(f"palm.{name}", value)
    if record.answered:
        span.set_attribute("palm.model", record.answered[0].model)
        span.set_attribute("palm.version", record.answered[0].version)
    if record.code in _FAULTS:
        span.set_status(StatusCode.ERROR, record.code)


def _version() -> str:
    try:
        return version("palm-nlu")
    except PackageNotFoundError:  # run from a source tree
        return "unknown"

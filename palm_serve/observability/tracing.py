"""OpenTelemetry traces over OTLP: one span for each call, with child spans for the queue, run and decoding of its batches.

Spans are built when a call has ended, from times that are measured anyway. So calls that are not sampled cost almost nothing.
The caller's sampling decision is followed where there is one, else OTEL_TRACES_SAMPLER decides. Needs the extra `otel`.
"""

import os
import time
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from threading import Thread

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.environment_variables import OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode, format_trace_id, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from palm_serve.system.addresses import proxy_options
from palm_serve.types import AnsweredText, CallRecord

_SERVICE = "palm-serve"
_FAULTS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
"""Codes that make a server's span an error, by OpenTelemetry's conventions for RPC."""
_ENDPOINTS = (OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, OTEL_EXPORTER_OTLP_ENDPOINT)
_DEFAULT_ENDPOINT = "http://localhost:4317"
"""Endpoint of the exporter if neither an option nor a variable sets one."""
_CLOSE_S = 3.0
"""Time limit for the last export. Later spans are lost, so that a missing collector does not delay a stop."""


class Tracing:
    """Exports spans to a collector in batches, on a thread of its own.

    Args:
        endpoint: as http://HOST:PORT. None: OTEL_EXPORTER_OTLP_TRACES_ENDPOINT or OTEL_EXPORTER_OTLP_ENDPOINT.
    """

    def __init__(self, endpoint: str | None = None) -> None:
        # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES take precedence.
        resource = Resource.create({SERVICE_VERSION: _version()})
        has_name = "OTEL_SERVICE_NAME" in os.environ or SERVICE_NAME in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
        if not has_name:
            resource = resource.merge(Resource({SERVICE_NAME: _SERVICE}))
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(_exporter(endpoint)))
        self._tracer = self._provider.get_tracer(_SERVICE, _version())
        self._context = TraceContextTextMapPropagator()

    def __call__(self, record: CallRecord) -> None:
        """Build the spans of a finished call and set `record.trace_id`. Health checks have no spans."""
        if record.health:
            return
        carrier: dict[str, str] = {}
        if record.traceparent:
            carrier["traceparent"] = record.traceparent
        if record.tracestate:
            carrier["tracestate"] = record.tracestate
        # Difference between the wall clock and the clock of the measured times.
        offset_ns = time.time_ns() - time.perf_counter_ns()
        ended_ns = record.ended_ns + offset_ns
        span = self._tracer.start_span(
            record.method,
            self._context.extract(carrier),
            SpanKind.SERVER,
            start_time=ended_ns - int(record.seconds * 1e9),
        )
        record.trace_id = format_trace_id(span.get_span_context().trace_id)
        if span.is_recording():
            _set_attributes(span, record)
            self._add_batch_spans(span, record.answered, offset_ns)
            span.end(ended_ns)

    def _add_batch_spans(self, parent: Span, answered: Iterable[AnsweredText], offset_ns: int) -> None:
        """Add child spans, once for all texts that ran in the same batch."""
        context = set_span_in_context(parent)
        by_batch: dict[tuple[str, str, int], list[AnsweredText]] = {}
        for answer in answered:
            by_batch.setdefault((answer.model, answer.version, answer.timings.run_ns), []).append(answer)
        for (model, digest, run_ns), members in by_batch.items():
            timings = members[0].timings
            if not run_ns:
                continue
            attributes: dict[str, str | int] = {
                "palm.model": model,
                "palm.version": digest,
                "palm.batch.rows": timings.batch_size,
                "palm.batch.texts_of_call": len(members),
            }
            queue_us = max(member.timings.queue_us for member in members)
            phases = (
                ("queue", run_ns - queue_us * 1000, queue_us),
                ("run", run_ns, timings.inference_us),
                ("decode", timings.decode_ns, timings.decode_us),
            )
            for name, begin_ns, duration_us in phases:
                begin_ns += offset_ns
                child = self._tracer.start_span(name, context, attributes=attributes, start_time=begin_ns)
                child.end(begin_ns + duration_us * 1000)

    def close(self) -> None:
        """Export the remaining spans, for at most three seconds."""
        closing = Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(_CLOSE_S)


def _exporter(endpoint: str | None) -> OTLPSpanExporter:
    """Create the exporter. It calls a collector on this machine directly, also if the environment names a proxy."""
    url = endpoint
    for variable in _ENDPOINTS:
        url = url or os.environ.get(variable)
    # An endpoint without a scheme is HOST:PORT.
    target = (url or _DEFAULT_ENDPOINT).rpartition("://")[2].partition("/")[0]
    return OTLPSpanExporter(endpoint=endpoint, channel_options=proxy_options(target))  # type: ignore[arg-type]


def _set_attributes(span: Span, record: CallRecord) -> None:
    span.set_attributes(
        {
            "rpc.system": record.door,
            "rpc.service": record.service,
            "rpc.method": record.method,
            "rpc.grpc.status_code": record.number,
            "palm.request_id": record.request_id,
            "palm.client": record.client,
            "palm.texts": record.texts,
        }
    )
    for name in ("request_bytes", "response_bytes", "reason"):
        value = getattr(record, name)
        if value:
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

"""Prometheus metrics, OpenTelemetry traces and the log. None holds request texts, except the log with --log-text.

`tracing` is not imported here because it needs the extra `otel`.
"""

from palm_serve.observability.environment import traces_requested
from palm_serve.observability.logs import AccessLog, JsonFormatter, TextFormatter, call_fields, configure_logging
from palm_serve.observability.metrics import Metrics, ModelMetrics

__all__ = [
    "AccessLog",
    "JsonFormatter",
    "Metrics",
    "ModelMetrics",
    "TextFormatter",
    "call_fields",
    "configure_logging",
    "traces_requested",
]

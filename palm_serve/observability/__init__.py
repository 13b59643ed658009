"""What an operator sees: Prometheus metrics, traces and the log. Request texts appear in none of them, but in the log where that is asked for.

`tracing` is not imported here: it needs the extra `otel`.
"""

from palm_serve.observability.environment import asked_by_environment
from palm_serve.observability.logs import AccessLog, JsonFormatter, TextFormatter, call_fields, configure_logging
from palm_serve.observability.metrics import Metrics, ModelMetrics

__all__ = [
    "AccessLog",
    "JsonFormatter",
    "Metrics",
    "ModelMetrics",
    "TextFormatter",
    "asked_by_environment",
    "call_fields",
    "configure_logging",
]

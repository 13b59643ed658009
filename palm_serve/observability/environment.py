"""The standard OTEL_* environment variables, read without importing OpenTelemetry."""

from collections.abc import Mapping

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def traces_requested(environment: Mapping[str, str]) -> bool:
    """Return true if the variables name a trace collector and do not disable traces."""
    return (
        any(environment.get(name) for name in _ENDPOINTS)
        and environment.get("OTEL_SDK_DISABLED", "").lower() != "true"
        and environment.get("OTEL_TRACES_EXPORTER", "otlp").lower() in ("", "otlp")
    )

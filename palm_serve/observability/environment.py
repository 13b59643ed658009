"""What the standard OTEL_* variables say, read without OpenTelemetry."""

from collections.abc import Mapping

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def asked_by_environment(environment: Mapping[str, str]) -> bool:
    """Whether the variables name a collector for traces and switch nothing off."""
    return (
        any(environment.get(name) for name in _ENDPOINTS)
        and environment.get("OTEL_SDK_DISABLED", "").lower() != "true"
        and environment.get("OTEL_TRACES_EXPORTER", "otlp").lower() in ("", "otlp")
    )

"""Parts of a server that need an extra: the HTTP door (`http`) and traces (`otel`)."""

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from palm_serve.config import ServeOptions
from palm_serve.errors import ConfigError
from palm_serve.observability import traces_requested
from palm_serve.rpc.grpc_server import Services
from palm_serve.rpc.transport.tls import Certificates
from palm_serve.system.installation import how_to_install

if TYPE_CHECKING:
    from palm_serve.http.listener import HttpServer
    from palm_serve.observability.tracing import Tracing

log = logging.getLogger(__name__)


def make_http_server(
    services: Services, options: ServeOptions, certificates: Certificates | None, metrics: Callable[[], bytes]
) -> "HttpServer":
    """Create the HTTP door.

    Args:
        services: the services, which gRPC shares.
        options: the options of the server.
        certificates: certificates of the server. None: without TLS.
        metrics: returns the metrics in Prometheus' text format.

    Raises:
        ConfigError: if the extra `http` is not installed, or the file of feedback cannot be written to.
    """
    try:
        from palm_serve.http.app import make_app
        from palm_serve.http.listener import HttpServer
    except ImportError as error:
        raise ConfigError(
            f"--http-port: HTTP needs {error.name}, which is not installed. To install it, {how_to_install('http')}"
        ) from None
    return HttpServer(make_app(services, options, metrics), options, certificates)


def start_tracing(options: ServeOptions) -> "Tracing | None":
    """Start tracing if an option or the environment requests it, else return None.

    Raises:
        ConfigError: if the option is set and OpenTelemetry is not installed.
    """
    if options.otel_endpoint is None and not traces_requested(os.environ):
        return None
    try:
        from palm_serve.observability.tracing import Tracing

        return Tracing(options.otel_endpoint)
    except ImportError as error:
        missing = (
            f"traces need OpenTelemetry, but {error.name} is not installed. To install it, {how_to_install('otel')}"
        )
        if options.otel_endpoint is not None:
            raise ConfigError(f"--otel-endpoint: {missing}") from None
        # Platforms set these variables for all containers, so this is no error.
        log.warning("the environment requests traces, but %s", missing)
        return None

"""HTTP or HTTPS endpoint for Prometheus, with an optional authorization check."""

import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from http import HTTPStatus
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from palm_serve.errors import NotAllowed, Unauthenticated

log = logging.getLogger(__name__)

_SCRAPES = 16
"""Limit of concurrent connections. Further ones are closed."""
_TIMEOUT_S = 10.0
"""Timeout for a peer that sends or reads nothing."""

Check = Callable[[str], object]
"""Checks an `Authorization` header, or "". Raises Unauthenticated, NotAllowed."""
App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def expose(
    registry: CollectorRegistry,
    host: str,
    port: int,
    check: Check | None = None,
    context: Callable[[], ssl.SSLContext] | None = None,
) -> None:
    """Serve metrics on threads of their own until the process ends.

    Args:
        registry: the metrics to serve.
        host: address to listen on.
        port: port to listen on.
        check: called with the `Authorization` header of each request. None: anyone may read.
        context: returns the TLS context of a new connection. None: without TLS.

    Raises:
        OSError: if the address cannot be listened on.
    """
    app: App = make_wsgi_app(registry)
    server = _server(host, port, context)
    server.set_app(app if check is None else _with_check(app, check))
    threading.Thread(target=server.serve_forever, name="palm-metrics", daemon=True).start()


def _with_check(app: App, check: Check) -> App:
    def checked(environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        try:
            check(environment.get("HTTP_AUTHORIZATION", ""))
        except (Unauthenticated, NotAllowed) as error:
            status = HTTPStatus.UNAUTHORIZED if isinstance(error, Unauthenticated) else HTTPStatus.FORBIDDEN
            start(
                f"{status.value} {status.phrase}",
                [("Content-Type", "text/plain; charset=utf-8"), ("WWW-Authenticate", "Bearer")],
            )
            return [f"{error}\n".encode()]
        return app(environment, start)

    return checked


def _server(host: str, port: int, context: Callable[[], ssl.SSLContext] | None) -> WSGIServer:
    family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    free_slots = threading.BoundedSemaphore(_SCRAPES)

    class MetricsServer(ThreadingMixIn, WSGIServer):
        address_family = family
        daemon_threads = True

        def get_request(self) -> tuple[socket.socket, Any]:
            connection, peer = super().get_request()
            connection.settimeout(_TIMEOUT_S)
            if context is not None:
                # The handshake waits for the peer, so it runs on the connection's thread instead of the accepting one.
                connection = context().wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
            return connection, peer

        def process_request(self, request: Any, client_address: Any) -> None:
            if free_slots.acquire(blocking=False):
                super().process_request(request, client_address)
            else:
                self.shutdown_request(request)

        def process_request_thread(self, request: Any, client_address: Any) -> None:
            try:
                super().process_request_thread(request, client_address)
            finally:
                free_slots.release()

        def handle_error(self, request: Any, client_address: Any) -> None:
            log.debug("a scrape from %s failed", client_address, exc_info=True)

    return MetricsServer((str(address[0]), port), _Handler)


class _Handler(WSGIRequestHandler):
    def log_message(self, form: str, *arguments: object) -> None:
        """Do not log scrapes."""

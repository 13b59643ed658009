"""Metrics over HTTP, in the clear or over TLS, to anyone or to those whom a check lets in."""

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
"""At once; whoever comes beyond it is turned away."""
_TIMEOUT_S = 10.0
"""Of a peer that says nothing, or does not listen."""

Check = Callable[[str], object]
"""Takes an `Authorization` header, or "". Raises Unauthenticated, NotAllowed."""
App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def expose(
    registry: CollectorRegistry,
    host: str,
    port: int,
    check: Check | None = None,
    context: Callable[[], ssl.SSLContext] | None = None,
) -> None:
    """Publishes until the process ends, in threads of its own. Raises OSError where it cannot listen.

    Args:
        check: None: anyone may read.
        context: is asked for every connection; None: without TLS.
    """
    app: App = make_wsgi_app(registry)
    server = _server(host, port, context)
    server.set_app(app if check is None else _guarded(app, check))
    threading.Thread(target=server.serve_forever, name="palm-metrics", daemon=True).start()


def _guarded(app: App, check: Check) -> App:
    def guarded(environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
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

    return guarded


def _server(host: str, port: int, context: Callable[[], ssl.SSLContext] | None) -> WSGIServer:
    family, *_, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    free = threading.BoundedSemaphore(_SCRAPES)

    class Server(ThreadingMixIn, WSGIServer):
        address_family = family
        daemon_threads = True

        def get_request(self) -> tuple[socket.socket, Any]:
            connection, peer = super().get_request()
            connection.settimeout(_TIMEOUT_S)
            if context is not None:
                # The handshake waits for the peer: in the thread of its connection, not in the one that all come through.
                connection = context().wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
            return connection, peer

        def process_request(self, request: Any, client_address: Any) -> None:
            if free.acquire(blocking=False):
                super().process_request(request, client_address)
            else:
                self.shutdown_request(request)

        def process_request_thread(self, request: Any, client_address: Any) -> None:
            try:
                super().process_request_thread(request, client_address)
            finally:
                free.release()

        def handle_error(self, request: Any, client_address: Any) -> None:
            log.debug("a scrape from %s failed", client_address, exc_info=True)

    return Server((str(place[0]), port), _Handler)


class _Handler(WSGIRequestHandler):
    def log_message(self, form: str, *arguments: object) -> None:
        """Scrapes are not told."""

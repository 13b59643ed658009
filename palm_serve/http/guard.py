"""What is refused before a call: other host names, and requests that a page of another site makes a browser send.

A page of any site may make a browser send requests to this machine. It cannot set the headers `Host`, `Origin` and
`Sec-Fetch-Site`, which say so. With DNS rebinding a page's own host name leads to this machine, so `Host` must be a name of
the server, or an address, which nobody can rebind.
"""

import asyncio
import ipaddress
import json
import logging
import socket
from collections.abc import Awaitable, Callable

from starlette.middleware.cors import CORSMiddleware

from palm_serve.config import ServeOptions
from palm_serve.http.context import Receive, Scope, Send
from palm_serve.http.endpoint import refuse

log = logging.getLogger(__name__)

TASK = "palm.task"
"""Key of a request's task in its scope. The task is cancelled when the client disconnects."""
DISCONNECTED = "palm.disconnected"
"""Key that is in a request's scope once its client has disconnected."""
ANY = "*"
_PREFLIGHT_S = 600
_READ_HEADERS = frozenset(
    (b"host", b"origin", b"sec-fetch-site", b"sec-fetch-mode", b"content-length", b"transfer-encoding")
)

App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Guard:
    """ASGI application that checks the headers of each request.

    Args:
        app: answers the requests that are not refused.
        options: the options of the server.
    """

    def __init__(self, app: App, options: ServeOptions) -> None:
        origins = _names(options.http_allow_origin)
        if origins:
            app = CORSMiddleware(
                app,
                allow_origins=[*origins],
                allow_methods=["GET", "POST"],
                allow_headers=["*"],
                expose_headers=["*"],
                max_age=_PREFLIGHT_S,
            )
        self._app: App = app
        self._hosts = {"localhost", options.tcp_host.strip("[]").lower(), socket.gethostname().lower()}
        self._hosts |= _names(options.http_allow_host)
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it.

        Args:
            scope: the request, as ASGI describes it.
            receive: receives its body.
            send: sends the response.
        """
        headers: dict[str, str] = {}
        for key, value in scope["headers"]:
            if key in _READ_HEADERS:
                headers[key.decode()] = value.decode("latin-1").lower()
        refusal = self._refusal(scope["method"], headers)
        if refusal is not None:
            status, message = refusal
            body = json.dumps({"error": message}).encode()
            await refuse(scope, receive, send, status, body)
            return
        scope[TASK] = asyncio.current_task()
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:
            # `listener` cancels the calls of a client that has disconnected. Nobody reads a response.
            if not scope.get(DISCONNECTED):
                raise
        except Exception:
            # uvicorn answers with 500.
            log.exception("a request of HTTP failed")
            raise

    def _refusal(self, method: str, headers: dict[str, str]) -> tuple[int, str] | None:
        """Return the status and the message with which a request is refused. None: it is not."""
        if "content-length" in headers and "transfer-encoding" in headers:
            # A proxy in front may take the other one for the length, and so another end of the request.
            return 400, "a request must have either Content-Length or Transfer-Encoding, got both. Send one of them."
        host = headers.get("host", "")
        if host and not self._is_own(host):
            return (
                421,
                "Host must be a name of this server or an address. Start it with --http-allow-host NAME for another name.",
            )
        origin = headers.get("origin")
        if origin is not None:
            if origin.partition("://")[2] != host and not self._origins & {origin, ANY}:
                return 403, "requests of other sites are refused. Start the server with --http-allow-origin ORIGIN."
        elif headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not (
            method == "GET" and headers.get("sec-fetch-mode") == "navigate"
        ):
            return 403, "requests of other sites are refused."
        return None

    def _is_own(self, host: str) -> bool:
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
        if name in self._hosts or ANY in self._hosts:
            return True
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True


def _names(value: str | None) -> set[str]:
    """Return the names of an option, which are separated by commas."""
    return {name.strip().lower() for name in (value or "").split(",")} - {""}

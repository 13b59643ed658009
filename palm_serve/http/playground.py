"""The playground: a page that asks this server, and what it needs besides the services.

    GET  /  (Accept: text/html), /playground    the page
    GET  /playground/FILE                       its style, its modules, its icon
    GET  /playground/examples                   texts to try
    POST /playground/feedback                   see `feedback.py`

The files of the page lie in `page/` and are served as they are. They hold nothing of the models, so that they are open as
health checks are. The page asks the services of `connect.py`, with the token that its user gives.
"""

import hashlib
import re
from pathlib import Path
from typing import Any

from starlette.routing import Match, Route

from palm_serve.config import ServeOptions
from palm_serve.http import feedback
from palm_serve.http.context import HttpContext, Receive, Scope, Send
from palm_serve.http.endpoint import Endpoint, send_response
from palm_serve.http.open_inference import describe_error
from palm_serve.http.plain_json import json_bytes
from palm_serve.rpc.access.tokens import Scope as TokenScope
from palm_serve.rpc.call import Call
from palm_serve.rpc.call_handling import HandlerFactory
from palm_serve.rpc.grpc_server import Services
from palm_serve.system.addresses import is_loopback
from palm_serve.v1 import palm_pb2 as pb

PATH = "/playground"
FOLDER = Path(__file__).with_name("page")
"""The files of the page."""
_PAGE = "index.html"
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_FEEDBACK_OFF = b'data-feedback="off"'
"""Attribute of the page that tells whether answers can be corrected. It is changed where they can."""
_POLICY = (
    "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'; "
    "require-trusted-types-for 'script'"
)
"""Scripts, styles and requests of this server only, and no markup from strings: what a model answers stays text."""
_HEADERS = (
    ("content-security-policy", _POLICY),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cache-control", "no-cache"),
    ("vary", "accept"),
)
_HTML = re.compile(r"(?:^|,)\s*text/html\b", re.IGNORECASE)


def routes(services: Services, factory: HandlerFactory, options: ServeOptions) -> list[Route]:
    """Return the routes. They stand before those of Rasa, whose greeting is at `/`, too.

    Args:
        services: the services.
        factory: creates the handlers of calls.
        options: the options of the server.

    Raises:
        ConfigError: the file of feedback cannot be written to.
    """
    page = (FOLDER / _PAGE).read_bytes()
    if options.feedback is not None:
        page = page.replace(_FEEDBACK_OFF, _FEEDBACK_OFF.replace(b"off", b"on"))
    page_file = _File(page, _MEDIA_TYPES[".html"])
    examples = Endpoint(_Examples(services, factory, options).answer, describe_error, options.limits.message_bytes)
    all_routes: list[Route] = [
        _BrowserRoute("/", page_file, methods=["GET"]),
        Route(PATH, page_file, methods=["GET"]),
        Route(f"{PATH}/examples", examples, methods=["GET"]),
    ]
    for path in sorted(FOLDER.iterdir()):
        if path.name != _PAGE:
            served = _File(path.read_bytes(), _MEDIA_TYPES[path.suffix])
            all_routes.append(Route(f"{PATH}/{path.name}", served, methods=["GET"]))
    if options.feedback is not None:
        all_routes.append(feedback.route(f"{PATH}/feedback", options.feedback, services, factory, options.limits))
    return all_routes


class _BrowserRoute(Route):
    """A route for clients that ask for HTML."""

    def matches(self, scope: Any) -> tuple[Match, Any]:
        """Return whether the route answers a request."""
        accepted = [value.decode("latin-1") for key, value in scope["headers"] if key == b"accept"]
        if not _HTML.search(",".join(accepted)):
            return Match.NONE, {}
        return super().matches(scope)


class _File:
    """ASGI application that sends one file. A browser that has it gets no copy.

    Args:
        content: the file.
        media_type: its type.
    """

    def __init__(self, content: bytes, media_type: str) -> None:
        self._content = content
        self._media_type = media_type
        self._tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        Args:
            scope: the request, as ASGI describes it.
            receive: receives its body.
            send: sends the response.
        """
        headers = [*_HEADERS, ("etag", self._tag)]
        if dict(scope["headers"]).get(b"if-none-match", b"").decode("latin-1") == self._tag:
            await send_response(send, 304, b"", self._media_type, headers)
        else:
            await send_response(send, 200, self._content, self._media_type, headers)


class _Examples:
    """Texts to try, from the golden examples of a bundle.

    These are texts of the dev data, so they leave the server only where it knows who asks (a token with the scope `read`),
    or where nobody else than users of this machine can ask.
    """

    def __init__(self, services: Services, factory: HandlerFactory, options: ServeOptions) -> None:
        self._services = services
        self._factory = factory
        self._is_open = options.tokens is not None or is_loopback(options.tcp_host)

    async def answer(self, context: HttpContext) -> bytes:
        """Return the texts of the model of a request."""
        query = context.query

        def read(body: bytes) -> pb.GetModelRequest:
            return pb.GetModelRequest(name=query.get("model", ""), version=query.get("version", ""))

        async def find(message: pb.GetModelRequest, call: Call) -> list[dict[str, str]]:
            model = self._services.registry.get(message.name, message.version)
            return [*model.examples] if self._is_open else []

        def write(examples: list[dict[str, str]]) -> bytes:
            return json_bytes({"examples": examples})

        exchange = self._factory.exchange("Examples", read, find, write, TokenScope.READ)
        return await exchange(None, context)

"""All routes of the HTTP door."""

from starlette.routing import Router

from palm_serve.config import ServeOptions
from palm_serve.http import open_inference
from palm_serve.http.context import Receive, Scope, Send
from palm_serve.http.endpoint import refuse
from palm_serve.http.guard import App, Guard
from palm_serve.http.plain_json import json_bytes
from palm_serve.rpc.grpc_server import Services
from palm_serve.rpc.oip.service import SERVICE as OPEN_INFERENCE

DOOR = "http"
"""Name of the transport in records."""


def make_app(services: Services, options: ServeOptions) -> App:
    """Create the application of the door.

    Args:
        services: the services, whose admission and records all doors share.
        options: the options of the server.
    """
    limit = options.limits.message_bytes
    routes = open_inference.routes(services.open_inference, services.factory.for_service(OPEN_INFERENCE, DOOR), limit)
    return Guard(Router(routes, default=_not_found, redirect_slashes=False), options)


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    body = json_bytes({"error": f"no route {scope['path'][:64]}. See docs/operations.md for the routes."})
    await refuse(scope, receive, send, 404, body)

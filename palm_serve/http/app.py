"""All routes of the HTTP door."""

import asyncio
from collections import Counter
from collections.abc import Callable

from starlette.routing import Route, Router

from palm_serve.config import ServeOptions
from palm_serve.http import connect, huggingface, open_inference, playground, rasa
from palm_serve.http.context import HttpContext, Receive, Scope, Send
from palm_serve.http.endpoint import Endpoint, refuse
from palm_serve.http.guard import App, Guard
from palm_serve.http.openapi import openapi_json
from palm_serve.http.plain_json import json_bytes
from palm_serve.observability.metrics import METRICS_TYPE
from palm_serve.rpc.access.tokens import Scope as TokenScope
from palm_serve.rpc.call import Call
from palm_serve.rpc.call_handling import HandlerFactory
from palm_serve.rpc.grpc_server import DIALOGUE, Services
from palm_serve.rpc.messages.wire import max_fields
from palm_serve.rpc.oip.service import SERVICE as OPEN_INFERENCE
from palm_serve.v1 import palm_pb2 as pb

DOOR = "http"
"""Name of the transport in records."""


def make_app(services: Services, options: ServeOptions, metrics: Callable[[], bytes]) -> App:
    """Create the application of the door.

    Args:
        services: the services, whose admission and records all doors share.
        options: the options of the server.
        metrics: returns the metrics in Prometheus' text format, in any thread.

    Raises:
        ConfigError: the file of feedback cannot be written to.
    """
    limit = options.limits.message_bytes
    dialogue = services.factory.for_service(DIALOGUE, DOOR)
    routes = [
        *playground.routes(services, services.factory.for_service("playground", DOOR), options),
        *connect.routes(services, DOOR, limit, max_fields(options.limits)),
        *rasa.routes(services, dialogue, options),
        *huggingface.routes(services, dialogue, options.limits),
        *open_inference.routes(
            services.open_inference, services.factory.for_service(OPEN_INFERENCE, DOOR), options.limits
        ),
        _description_route(services.factory.for_service("openapi", DOOR), limit),
        _metrics_route(metrics, services.factory.for_service("metrics", DOOR), limit),
    ]
    return Guard(_Routes(routes), options)


class _Routes:
    """ASGI application that finds the route of a request. A path without placeholders is looked up; others are compared in turn."""

    def __init__(self, routes: list[Route]) -> None:
        self._router = Router(routes, default=_not_found, redirect_slashes=False)
        self._by_path: dict[str, Route] = {}
        counts = Counter(route.path for route in routes)
        for route in routes:
            # A class of its own may look at more than the path.
            if type(route) is Route and "{" not in route.path and counts[route.path] == 1:
                self._by_path[route.path] = route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        Args:
            scope: the request, as ASGI describes it.
            receive: receives its body.
            send: sends the response.
        """
        route = self._by_path.get(scope["path"])
        if route is None or scope["method"] not in (route.methods or ()):
            await self._router(scope, receive, send)
            return
        scope["path_params"] = {}
        await route.app(scope, receive, send)


def _metrics_route(metrics: Callable[[], bytes], factory: HandlerFactory, max_bytes: int) -> Route:
    """Return the route of the metrics. Where tokens are required, it requires the scope `metrics`."""

    async def read_metrics(message: pb.ListModelsRequest, call: Call) -> bytes:
        return await asyncio.to_thread(metrics)

    exchange = factory.exchange("Metrics", lambda body: pb.ListModelsRequest(), read_metrics, bytes, TokenScope.METRICS)

    async def answer(context: HttpContext) -> bytes:
        context.media_type = METRICS_TYPE
        return await exchange(None, context)

    return Route("/metrics", Endpoint(answer, open_inference.describe_error, max_bytes), methods=["GET"])


def _description_route(factory: HandlerFactory, max_bytes: int) -> Route:
    """Return the route of the description. It holds nothing of the models, so that it is open as health checks are."""
    description = openapi_json()

    async def read_description(message: pb.ListModelsRequest, call: Call) -> bytes:
        return description

    exchange = factory.exchange(
        "OpenAPI", lambda body: pb.ListModelsRequest(), read_description, bytes, TokenScope.HEALTH
    )

    async def answer(context: HttpContext) -> bytes:
        return await exchange(None, context)

    return Route("/openapi.json", Endpoint(answer, open_inference.describe_error, max_bytes), methods=["GET"])


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    body = json_bytes({"error": f"no route {scope['path'][:64]}. See /openapi.json for the routes."})
    await refuse(scope, receive, send, 404, body)

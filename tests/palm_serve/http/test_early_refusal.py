"""A call that is refused whatever it asks is refused on its headers, over HTTP too."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from palm_serve.config import ServeOptions
from palm_serve.errors import Overloaded
from palm_serve.http import connect, rasa
from palm_serve.rpc.access.admission import AdmissionControl
from palm_serve.rpc.call_handling import HandlerFactory
from palm_serve.rpc.lifecycle import Lifecycle, State

LONG = b"1000000"


def services(lifecycle: Lifecycle) -> Any:
    def refuse(call: Any) -> Overloaded:
        return Overloaded("the queue is full", 0.25)

    async def fail(message: Any, call: Any) -> None:
        raise AssertionError("the call was not refused")

    methods = SimpleNamespace(
        parse=fail,
        parse_batch=fail,
        predict=fail,
        check=fail,
        list_models=fail,
        get_model=fail,
        load_model=fail,
        unload_model=fail,
        early_refusal=refuse,
    )
    factory = HandlerFactory(lifecycle, AdmissionControl(ServeOptions()))
    return SimpleNamespace(factory=factory, dialogue=methods, prediction=methods, models=methods, health=methods)


@pytest.mark.parametrize(
    "path",
    ["/palm_serve.v1.DialogueUnderstanding/Parse", "/palm_serve.v1.Prediction/Predict", "/model/parse"],
)
def test_overload_is_told_before_the_body_is_read(path: str) -> None:
    """The body comes only after the response."""
    lifecycle = Lifecycle()
    lifecycle.state = State.SERVING
    found = services(lifecycle)
    routes = connect.routes(found, "http", 2**22, 1000)
    routes += rasa.routes(
        found, found.factory.for_service("palm_serve.v1.DialogueUnderstanding", "http"), ServeOptions()
    )
    (route,) = [route for route in routes if route.path == path]
    sent: list[Any] = []
    answered = asyncio.Event()

    async def send(message: Any) -> None:
        sent.append(message)
        answered.set()

    async def receive() -> Any:
        await answered.wait()
        return {"type": "http.request", "body": b"{}"}

    headers = [(b"content-type", b"application/json"), (b"content-length", LONG)]
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "path_params": {},
        "query_string": b"",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "state": {},
    }
    asyncio.run(asyncio.wait_for(route.app(scope, receive, send), 30))
    assert sent[0]["status"] == 429
    assert "the queue is full" in json.loads(sent[1]["body"]).get("message", sent[1]["body"].decode())

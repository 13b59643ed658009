"""A refusal after the end of a call must not be logged as a failure of the server."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from palm_serve.config import ServeOptions
from palm_serve.errors import Overloaded
from palm_serve.rpc.access.admission import AdmissionControl
from palm_serve.rpc.access.tokens import Scope
from palm_serve.rpc.call import Call
from palm_serve.rpc.call_handling import HandlerFactory
from palm_serve.rpc.lifecycle import Lifecycle, State
from palm_serve.types import TextRequest
from palm_serve.v1 import palm_pb2 as pb
from palm_serve.v1 import palm_pb2_grpc as stubs

RunningServer = Any  # of conftest.py, which cannot be imported by name


@pytest.mark.parametrize("leaves", ["deadline", "cancelled", "gone"])
def test_late_refusal_is_recorded_without_errors(
    make_rpc_server: Callable[..., RunningServer],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    leaves: str,
) -> None:
    """The busy event loop has not received the end of the call yet."""
    rpc_server = make_rpc_server()

    async def refuse(request: TextRequest) -> Any:
        time.sleep(1.0)
        raise Overloaded("too late")

    monkeypatch.setattr(rpc_server.model, "predict", refuse)
    with grpc.insecure_channel(rpc_server.target, (("grpc.use_local_subchannel_pool", 1),)) as channel:
        parse = stubs.DialogueUnderstandingStub(channel).Parse
        call = parse.future(pb.ParseRequest(text="a"), timeout=0.5 if leaves == "deadline" else 10)
        time.sleep(0.4)
        if leaves == "cancelled":
            call.cancel()
    end = time.monotonic() + 30
    while not rpc_server.observed and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.1)
    assert [record.code for record in rpc_server.observed] == ["RESOURCE_EXHAUSTED"]
    assert caplog.text == ""


class Gone:
    """Fake context of a call whose broken connection is not known yet, which cannot be provoked with a real one."""

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    def invocation_metadata(self) -> tuple[()]:
        return ()

    def time_remaining(self) -> None:
        return None

    async def read(self) -> bytes:
        return b""

    async def abort(self, *arguments: object) -> None:
        raise grpc.aio.InternalError('Failed "execute_batch"')


def test_disconnected_client_is_no_failure() -> None:
    async def refuse(message: pb.ParseRequest, call: Call) -> pb.ParseResponse:
        raise Overloaded("busy")

    lifecycle = Lifecycle()
    lifecycle.state = State.SERVING
    handler = HandlerFactory(lifecycle, AdmissionControl(ServeOptions())).unary(
        "Parse", pb.ParseRequest, refuse, Scope.PARSE
    )

    async def ask() -> None:
        with pytest.raises(asyncio.CancelledError):
            await handler.stream_unary(None, Gone())

    asyncio.run(ask())

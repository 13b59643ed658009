"""Long bodies over HTTP are read, and their answers written, beside the event loop."""

import asyncio
import threading

import pytest

from palm_serve.config import ServeOptions
from palm_serve.rpc.access.admission import AdmissionControl
from palm_serve.rpc.access.tokens import Scope
from palm_serve.rpc.call import Call
from palm_serve.rpc.call_handling import HandlerFactory
from palm_serve.rpc.lifecycle import Lifecycle, State
from palm_serve.v1 import palm_pb2 as pb


class Body:
    """Context of a call whose body has arrived."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    def invocation_metadata(self) -> tuple[()]:
        return ()

    def time_remaining(self) -> None:
        return None

    async def read(self) -> bytes:
        return self.data

    def set_trailing_metadata(self, metadata: object) -> None:
        return None


@pytest.mark.parametrize(
    ("door", "length", "beside"), [("http", 100_000, True), ("http", 100, False), ("grpc", 100_000, False)]
)
def test_long_bodies_are_converted_in_a_thread(door: str, length: int, beside: bool) -> None:
    threads = {}

    def read(data: bytes) -> pb.ParseRequest:
        threads["read"] = threading.get_ident()
        return pb.ParseRequest(text=data.decode())

    def write(response: pb.ParseResponse) -> bytes:
        threads["write"] = threading.get_ident()
        return response.text.encode()

    async def answer(message: pb.ParseRequest, call: Call) -> pb.ParseResponse:
        threads["answer"] = threading.get_ident()
        return pb.ParseResponse(text=message.text)

    async def main() -> bytes:
        lifecycle = Lifecycle()
        lifecycle.state = State.SERVING
        factory = HandlerFactory(lifecycle, AdmissionControl(ServeOptions())).for_service("palm_serve.v1.X", door)
        return await factory.exchange("Parse", read, answer, write, Scope.PARSE)(None, Body(b"a" * length))

    assert asyncio.run(main()) == b"a" * length
    assert threads["answer"] == threading.get_ident()
    assert (threads["read"] != threads["answer"]) is beside
    assert (threads["write"] != threads["answer"]) is beside

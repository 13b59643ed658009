"""How each server is asked: the bytes of a request, what an answer says, and a connection that carries them.

All servers get the texts from the same generator; what differs is what their protocol needs. HTTP is spoken here with as little as it takes, so
that the client costs an HTTP server no more than gRPC's costs the others.
"""

import asyncio
import json
import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import grpc

from palm_serve.oip import inference_pb2 as oip
from palm_serve.system.addresses import NO_PROXY
from palm_serve.v1 import palm_pb2 as pb

_OK, _DEADLINE, _EXHAUSTED, _INTERNAL, _UNAVAILABLE = 0, 4, 8, 13, 14
_CODES = {200: _OK, 408: _DEADLINE, 429: _EXHAUSTED, 503: _UNAVAILABLE, 504: _DEADLINE}
_CONNECT_S = 5.0

Said = dict[str, Any]
"""The name of the intent, and name, begin and end of each slot: what answers are compared by."""


class Ask(Protocol):
    """Sends a request; its google.rpc.Code (0: answered) and the answer."""

    async def __call__(self, request: bytes, timeout_s: float) -> tuple[int, bytes]:
        """May be called by as many at once as the connection was opened for."""
        ...


class Door(ABC):
    """A protocol. Instances go to other processes."""

    @abstractmethod
    def request(self, text: str) -> bytes:
        """The message."""

    @abstractmethod
    def said(self, answer: bytes) -> Said:
        """What it says."""

    @abstractmethod
    def connect(self, port: int, callers: int) -> Any:
        """A context manager that gives an `Ask`. Raises OSError or TimeoutError where nobody listens."""


class _Grpc(Door):
    path: str

    @asynccontextmanager
    async def connect(self, port: int, callers: int) -> AsyncIterator[Ask]:
        """One channel for all callers, as clients are told to."""
        async with grpc.aio.insecure_channel(
            f"127.0.0.1:{port}", options=(("grpc.use_local_subchannel_pool", 1), *NO_PROXY)
        ) as channel:
            await asyncio.wait_for(channel.channel_ready(), _CONNECT_S)
            method = channel.unary_unary(self.path)

            async def ask(request: bytes, timeout_s: float) -> tuple[int, bytes]:
                try:
                    return _OK, await method(request, timeout=timeout_s)
                except grpc.aio.AioRpcError as error:
                    return int(error.code().value[0]), str(error.details()).encode()

            yield ask


@dataclass(frozen=True)
class Parse(_Grpc):
    """palm_serve.v1: PALM's own; Ray Serve is given the same service."""

    tasks: tuple[str, ...]
    path = "/palm_serve.v1.DialogueUnderstanding/Parse"

    def request(self, text: str) -> bytes:
        """The message."""
        return bytes(pb.ParseRequest(text=text, tasks=self.tasks).SerializeToString())

    def said(self, answer: bytes) -> Said:
        """What it says."""
        found = pb.ParseResponse.FromString(answer)
        return {"intent": found.intent.name, "slots": [(s.name, s.start, s.end) for s in found.slots]}


@dataclass(frozen=True)
class Infer(_Grpc):
    """Open Inference Protocol: one text in, JSON out."""

    shape: tuple[int, ...]
    path = "/inference.GRPCInferenceService/ModelInfer"

    def request(self, text: str) -> bytes:
        """The message, with raw contents as Triton's own clients send them."""
        tensor = oip.ModelInferRequest.InferInputTensor(name="text", datatype="BYTES", shape=self.shape)
        content = text.encode()
        raw = len(content).to_bytes(4, "little") + content
        return bytes(
            oip.ModelInferRequest(model_name="model", inputs=[tensor], raw_input_contents=[raw]).SerializeToString()
        )

    def said(self, answer: bytes) -> Said:
        """What it says."""
        found = oip.ModelInferResponse.FromString(answer)
        if found.raw_output_contents:
            return _from_json(json.loads(found.raw_output_contents[0][4:]))
        return _from_json(json.loads(found.outputs[0].contents.bytes_contents[0]))


@dataclass(frozen=True)
class Post(Door):
    """HTTP/1.1 with JSON over connections that stay."""

    path: str
    many: bool = False
    """Whether the server takes and gives a list of texts; one of a single text is sent."""

    def request(self, text: str) -> bytes:
        """The message with its head."""
        body = json.dumps({"texts": [text]} if self.many else {"text": text}).encode()
        head = f"POST {self.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        return head.encode() + body

    def said(self, answer: bytes) -> Said:
        """What it says."""
        content = json.loads(answer)
        return _from_json(content[0] if self.many else content)

    @asynccontextmanager
    async def connect(self, port: int, callers: int) -> AsyncIterator[Ask]:
        """A connection for each caller."""
        loop = asyncio.get_running_loop()
        opened = []
        try:
            for _ in range(callers):
                opened.append((await loop.create_connection(_Connection, "127.0.0.1", port))[1])
            free = list(opened)

            async def ask(request: bytes, timeout_s: float) -> tuple[int, bytes]:
                connection = free.pop()
                try:
                    async with asyncio.timeout(timeout_s):
                        status, body = await connection.ask(request)
                except (OSError, TimeoutError) as error:  # and the connection is of no use any more
                    return (_DEADLINE if isinstance(error, TimeoutError) else _UNAVAILABLE), str(error).encode()
                free.append(connection)
                return _CODES.get(status, _INTERNAL), body

            yield ask
        finally:
            for connection in opened:
                connection.close()


class _Connection(asyncio.Protocol):
    """One request at a time; an answer must tell its length."""

    _LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Of asyncio."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._data = b""

    def data_received(self, data: bytes) -> None:
        """Of asyncio."""
        self._data += data
        end = self._data.find(b"\r\n\r\n")
        if end < 0 or self._answer is None:
            return
        found = self._LENGTH.search(self._data, 0, end)
        if found is None:
            self._fail(ConnectionError("an answer without Content-Length"))
        elif len(self._data) >= end + 4 + int(found[1]):
            status, body = int(self._data[9:12]), self._data[end + 4 :]
            answer, self._answer, self._data = self._answer, None, b""
            if not answer.done():
                answer.set_result((status, body))

    def connection_lost(self, error: Exception | None) -> None:
        """Of asyncio."""
        self._fail(ConnectionError("the server has closed the connection"))

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)

    def ask(self, request: bytes) -> "asyncio.Future[tuple[int, bytes]]":
        """Status and body."""
        self._answer = asyncio.get_running_loop().create_future()
        if self._transport.is_closing():
            self._fail(ConnectionError("the server has closed the connection"))
        else:
            self._transport.write(request)
        return self._answer

    def close(self) -> None:
        """At once."""
        self._transport.abort()


def _from_json(content: dict[str, Any]) -> Said:
    return {"intent": content["intent"], "slots": [tuple(slot[:3]) for slot in content["slots"]]}


def door(kind: str, tasks: Sequence[str]) -> Door:
    """By the name in peers.toml: `parse`, `infer [1]`, `infer [1,1]`, `post /path`, `post-list /path`. Raises ValueError."""
    name, _, what = kind.partition(" ")
    match name:
        case "parse":
            return Parse(tuple(tasks))
        case "infer":
            return Infer(tuple(json.loads(what)))
        case "post" | "post-list":
            return Post(what, name == "post-list")
    raise ValueError(f"door '{kind}' is unknown; there are: parse, infer SHAPE, post PATH, post-list PATH")

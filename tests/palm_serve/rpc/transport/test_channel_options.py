"""Limits of a connection, tested by a peer that sends HTTP/2 frames."""

import contextlib
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from palm_serve.config import ServeOptions
from palm_serve.rpc.transport.connection_limits import grpc_connection_limit
from palm_serve.v1 import palm_pb2 as pb
from palm_serve.v1 import palm_pb2_grpc as stubs

RunningServer = Any  # of conftest.py, which cannot be imported by name
SETTINGS, PING, GOAWAY = 4, 6, 7
MAX_CONCURRENT_STREAMS, MAX_HEADER_LIST_SIZE = 3, 6
ENHANCE_YOUR_CALM = 11


class Peer:
    """One connection."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=10)

    def greet(self) -> "Peer":
        with contextlib.suppress(ConnectionError):  # where the server closed at once
            self.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            self.send(SETTINGS, b"")
        return self

    def send(self, kind: int, payload: bytes, flags: int = 0) -> None:
        self.socket.sendall(len(payload).to_bytes(3, "big") + bytes([kind, flags]) + bytes(4) + payload)

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self.socket.recv(size - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """Yield the type and payload of the server's frames until it closes the connection."""
        try:
            while True:
                head = self._read(9)
                yield head[3], self._read(int.from_bytes(head[:3], "big"))
        except (EOFError, ConnectionError):
            return

    def one_frame(self) -> list[tuple[int, bytes]]:
        """Split off the first frame, if it is complete."""
        return [frame for frame, _ in zip(self.frames(), range(1), strict=False)]

    def first(self, kind: int) -> bytes:
        return next(payload for got, payload in self.frames() if got == kind)


@pytest.fixture
def connect() -> Iterator[Callable[[RunningServer], Peer]]:
    peers: list[Peer] = []

    def begin(rpc_server: RunningServer) -> Peer:
        peers.append(Peer(rpc_server.target))
        return peers[-1]

    yield begin
    for peer in peers:
        peer.socket.close()


def test_http2_settings_announce_the_limits(
    make_rpc_server: Callable[..., RunningServer], connect: Callable[[RunningServer], Peer]
) -> None:
    settings = connect(make_rpc_server(max_streams=17, max_metadata_kib=3)).greet().first(SETTINGS)
    told = dict(struct.iter_unpack(">HI", settings))
    assert (told[MAX_CONCURRENT_STREAMS], told[MAX_HEADER_LIST_SIZE]) == (17, 3 * 1024)


def test_connections_over_limit_of_grpc_are_refused(
    make_rpc_server: Callable[..., RunningServer], connect: Callable[[RunningServer], Peer]
) -> None:
    """It is what remains where connections arrive faster than `ConnectionLimits` looks at them."""
    rpc_server = make_rpc_server(max_connections=3)
    peers = [connect(rpc_server).greet() for _ in range(grpc_connection_limit(ServeOptions(max_connections=3)))]
    assert all(peer.first(SETTINGS) for peer in peers)
    assert list(connect(rpc_server).greet().frames()) == []
    peers[0].socket.close()
    deadline = time.monotonic() + 5
    while not connect(rpc_server).greet().one_frame():
        assert time.monotonic() < deadline


def test_compressed_message_over_limit_is_refused(make_rpc_server: Callable[..., RunningServer]) -> None:
    rpc_server = make_rpc_server(max_message_mib=0.01)
    parse = stubs.DialogueUnderstandingStub(rpc_server.channel).Parse
    with pytest.raises(grpc.RpcError) as caught:
        parse(pb.ParseRequest(text="a" * 4_000_000), compression=grpc.Compression.Gzip)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert parse(pb.ParseRequest(text="a" * 9_000), compression=grpc.Compression.Gzip).text == "a" * 9_000


def test_headers_over_limit_are_refused(make_rpc_server: Callable[..., RunningServer]) -> None:
    rpc_server = make_rpc_server(max_metadata_kib=2)
    parse = stubs.DialogueUnderstandingStub(rpc_server.channel).Parse
    assert parse(pb.ParseRequest(text="a"), metadata=(("x-fits", "x" * 1_000),)).text == "a"
    with pytest.raises(grpc.RpcError) as caught:
        parse(pb.ParseRequest(text="a"), metadata=(("x-large", "x" * 3_000),))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert parse(pb.ParseRequest(text="a")).text == "a"


def test_ping_flood_closes_the_connection(
    make_rpc_server: Callable[..., RunningServer], connect: Callable[[RunningServer], Peer]
) -> None:
    peer = connect(make_rpc_server()).greet()
    peer.first(SETTINGS)
    for _ in range(5):
        peer.send(PING, bytes(8))
    goodbye = peer.first(GOAWAY)
    assert int.from_bytes(goodbye[4:8], "big") == ENHANCE_YOUR_CALM


def test_pings_at_the_allowed_interval_are_accepted(
    make_rpc_server: Callable[..., RunningServer], connect: Callable[[RunningServer], Peer]
) -> None:
    peer = connect(make_rpc_server(min_ping_interval=0.01)).greet()
    peer.first(SETTINGS)
    for _ in range(8):
        time.sleep(0.02)
        peer.send(PING, bytes(8))
        kinds = peer.frames()
        assert next(kind for kind, _ in kinds if kind in (PING, GOAWAY)) == PING


@pytest.mark.parametrize(
    "options",
    [
        {"max_connection_idle": 0.2},
        {"max_connection_age": 0.2, "max_connection_age_grace": 0.1},
    ],
)
def test_old_and_idle_connections_are_closed(
    make_rpc_server: Callable[..., RunningServer], connect: Callable[[RunningServer], Peer], options: dict[str, float]
) -> None:
    assert connect(make_rpc_server(**options)).greet().first(GOAWAY)


@pytest.mark.parametrize("greets", [True, False])
def test_silent_client_is_disconnected(
    make_rpc_server: Callable[..., RunningServer], connect: Callable[[RunningServer], Peer], greets: bool
) -> None:
    """A peer that sends nothing and a peer that answers no ping are both disconnected."""
    peer = connect(make_rpc_server(keepalive_time=0.2, keepalive_timeout=0.2, handshake_timeout=0.5))
    if greets:
        peer.greet()
    began = time.monotonic()
    assert SETTINGS in [kind for kind, _ in peer.frames()]
    assert time.monotonic() - began < 5


def test_calls_continue_when_connections_age(make_rpc_server: Callable[..., RunningServer]) -> None:
    """Clients are asked to reconnect, and no call fails."""
    rpc_server = make_rpc_server(max_connection_age=0.1, max_connection_age_grace=5)
    parse = stubs.DialogueUnderstandingStub(rpc_server.channel).Parse
    end = time.monotonic() + 1
    answered = 0
    while time.monotonic() < end:
        assert parse(pb.ParseRequest(text="sleep 0.01"), timeout=5).text == "sleep 0.01"
        answered += 1
    assert answered > 10

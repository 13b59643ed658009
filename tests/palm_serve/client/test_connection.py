"""Connections that fall silent and servers that are away for a while, with both clients and the load generator."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from palm_serve.client import AsyncClient, Client
from palm_serve.errors import DeadlineExceeded, PalmServeError, Unavailable
from palm_serve.v1 import palm_pb2 as pb

Relay = Any  # of conftest.py, which cannot be imported by name
LIMIT_S = 60.0
"""Time after which a client counts as stuck."""


class Restartable:
    """A server that can be stopped and started again on the same port."""

    def __init__(self) -> None:
        self.host = "127.0.0.1"
        self._server: Any = None
        self.delay_s = 0.0
        """Time that each answer takes."""
        self.port = 0
        self.start()
        self.target = f"127.0.0.1:{self.port}"

    def start(self) -> None:
        self._server = grpc.server(ThreadPoolExecutor(2), options=(("grpc.so_reuseport", 0),))
        answer = grpc.unary_unary_rpc_method_handler(self._list_models)
        handlers = grpc.method_handlers_generic_handler("palm_serve.v1.Models", {"ListModels": answer})
        self._server.add_generic_rpc_handlers([handlers])
        self.port = self._server.add_insecure_port(f"{self.host}:{self.port}")
        self._server.start()

    def stop(self) -> None:
        self._server.stop(None).wait()

    def _list_models(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        time.sleep(self.delay_s)
        return bytes(pb.ListModelsResponse().SerializeToString())


@pytest.fixture
def server() -> Iterator[Restartable]:
    running = Restartable()
    yield running
    running.stop()


class NameServer:
    """A DNS server that gives every name the same IPv4 address."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._answer, daemon=True)
        self._thread.start()
        self.target = f"127.0.0.1:{self._socket.getsockname()[1]}"

    def _answer(self) -> None:
        while True:
            query, client = self._socket.recvfrom(512)
            if not query:
                return
            end = query.index(b"\0", 12) + 1
            is_ipv4 = query[end : end + 2] == b"\0\1"
            record = b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4" + socket.inet_aton(self.address) if is_ipv4 else b""
            header = query[:2] + b"\x81\x80\0\1" + bytes((0, is_ipv4)) + bytes(4)
            self._socket.sendto(header + query[12 : end + 4] + record, client)

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()


@pytest.fixture
def name_server() -> Iterator[NameServer]:
    running = NameServer("127.0.0.1")
    yield running
    running.close()


class Caller:
    """Calls one method of either client, which stays open between the calls."""

    def __init__(self, kind: str, target: str, **options: Any) -> None:
        self._loop = asyncio.new_event_loop() if kind == "async" else None
        self._client: Any = None
        if self._loop is None:
            self._client = Client(target, **options)
        else:

            async def create() -> AsyncClient:
                return AsyncClient(target, **options)

            self._client = self._loop.run_until_complete(create())

    def __call__(self) -> None:
        result = self._client.models()
        if self._loop is not None:
            self._loop.run_until_complete(result)

    def until_answered(self, pause_s: float = 0.1) -> float:
        """Call until there is an answer. Return the seconds that it took."""
        began = time.monotonic()
        while time.monotonic() - began < LIMIT_S:
            try:
                self()
            except PalmServeError:
                time.sleep(pause_s)
            else:
                return time.monotonic() - began
        raise AssertionError("the client is stuck")

    def close(self) -> None:
        result = self._client.close()
        if self._loop is not None:
            self._loop.run_until_complete(result)
            self._loop.close()


@pytest.fixture(params=["sync", "async"])
def make_caller(request: pytest.FixtureRequest) -> Iterator[Callable[..., Caller]]:
    callers: list[Caller] = []

    def make(target: str, **options: Any) -> Caller:
        callers.append(Caller(request.param, target, **options))
        return callers[-1]

    yield make
    for caller in callers:
        caller.close()


@pytest.mark.slow
def test_calls_leave_a_silent_connection(
    make_caller: Callable[..., Caller], make_relay: Callable[..., Relay], server: Restartable
) -> None:
    """Calls whose deadlines are shorter than the keepalive timeout open a new connection."""
    relay = make_relay(server.target)
    call = make_caller(relay.address, timeout_s=1, retries=0)
    call()
    relay.silence()
    with pytest.raises(DeadlineExceeded):
        call()
    assert call.until_answered() < 35
    assert relay.connections == 2
    call()
    assert relay.connections == 2


@pytest.mark.slow
def test_keepalive_ends_a_silent_connection(
    make_caller: Callable[..., Caller], make_relay: Callable[..., Relay], server: Restartable
) -> None:
    """One call with a long deadline is answered over a new connection."""
    relay = make_relay(server.target)
    call = make_caller(relay.address, timeout_s=2 * LIMIT_S)
    call()
    relay.silence()
    call()
    assert relay.connections == 2


def test_slow_server_keeps_the_connection(make_relay: Callable[..., Relay], server: Restartable) -> None:
    """Answers between the deadlines show that the connection works."""
    relay = make_relay(server.target)
    with Client(relay.address, retries=0) as client:
        client.models()
        for _ in range(6):
            server.delay_s = 0.5
            with pytest.raises(DeadlineExceeded):
                client.models(timeout_s=0.1)
            server.delay_s = 0
            client.models()
    assert relay.connections == 1


@pytest.mark.slow
def test_retry_waits_for_a_restarted_server(make_caller: Callable[..., Caller], server: Restartable) -> None:
    call = make_caller(server.target, timeout_s=LIMIT_S)
    call()
    server.stop()
    restart = threading.Timer(3, server.start)
    restart.start()
    call()
    assert restart.finished.is_set(), "the answer came after the restart"
    restart.join()


def test_retry_reports_why_the_server_is_away(make_caller: Callable[..., Caller], server: Restartable) -> None:
    call = make_caller(server.target, timeout_s=2)
    call()
    server.stop()
    with pytest.raises(Unavailable, match=r"Connection refused|Socket closed|Broken pipe"):
        call()
    server.start()


@pytest.mark.slow
def test_client_finds_a_server_that_was_away_for_minutes(
    make_caller: Callable[..., Caller], server: Restartable
) -> None:
    """The pause between attempts to connect stays below 5 s."""
    call = make_caller(server.target, timeout_s=1)
    call()
    server.stop()
    end = time.monotonic() + 110
    while time.monotonic() < end:
        with pytest.raises((Unavailable, DeadlineExceeded)):
            call()
        time.sleep(0.3)
    server.start()
    assert call.until_answered() < 6


def test_client_finds_a_server_that_has_moved(
    make_caller: Callable[..., Caller], server: Restartable, name_server: NameServer
) -> None:
    """As in Kubernetes, where a new pod has a new address."""
    call = make_caller(f"dns://{name_server.target}/palm.test:{server.port}", timeout_s=1)
    call()
    server.stop()
    name_server.address = server.host = "127.0.0.2"
    server.start()
    assert call.until_answered() < 20, "gRPC's own interval is 30 s"

"""Clients that reset calls before they are read: their connections are closed, and their address is blocked for a while."""

import asyncio
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection

from palm_serve.client import Client
from palm_serve.rpc.access.rate_limits import client_of
from palm_serve.rpc.transport import connection_limits
from palm_serve.rpc.transport.reset_limits import (
    FIRST_BLOCK_S,
    LONGEST_BLOCK_S,
    RESET_BURST,
    RESETS_OF_CLOSED,
    RESETS_PER_S,
    ResetLimits,
)
from palm_serve.rpc.transport.socket_filter import set_filter
from palm_serve.v1 import palm_pb2, palm_pb2_grpc

Process = Any  # of conftest.py, which cannot be imported by name
LIMIT_S = 60.0


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class TestLimits:
    def test_resets_at_the_rate_are_allowed(self) -> None:
        clock = Clock()
        limits = ResetLimits(clock)
        for _ in range(600):
            clock.now += 0.1
            assert not limits.charge("a", int(RESETS_PER_S / 10) - 1, is_open=True)

    def test_more_are_not(self) -> None:
        limits = ResetLimits(Clock())
        assert not limits.charge("a", RESET_BURST - 2, is_open=True)
        assert limits.charge("a", 2, is_open=True)
        assert not limits.charge("b", 1, is_open=True)

    def test_client_that_is_stopped_with_all_its_calls_is_not_blocked(self) -> None:
        assert not ResetLimits(Clock()).charge("a", 100_000, is_open=False)

    def test_client_that_connects_and_resets_again_and_again_is(self) -> None:
        limits = ResetLimits(Clock())
        charged = [limits.charge("a", 100, is_open=False) for _ in range(RESET_BURST // RESETS_OF_CLOSED + 1)]
        assert charged[-1]

    def test_blocks_grow_and_end(self) -> None:
        clock = Clock()
        limits = ResetLimits(clock)
        length = FIRST_BLOCK_S
        for _ in range(10):
            limits.block("a")
            limits.block("a")  # one that is blocked is not blocked longer
            clock.now += length - 0.1
            assert limits.blocked() == ["a"]
            clock.now += 0.2
            assert limits.blocked() == []
            length = min(2 * length, LONGEST_BLOCK_S)
        clock.now += LONGEST_BLOCK_S + 1
        limits.blocked()
        limits.block("a")
        clock.now += FIRST_BLOCK_S + 0.1
        assert limits.blocked() == [], "it was forgotten"


def test_peers_have_an_address_and_a_port() -> None:
    assert client_of("ipv4:127.0.0.2:50") == ("127.0.0.2", 50)
    assert client_of("ipv6:%5B2001:db8::1%5D:50") == ("2001:db8::/64", 50)
    assert client_of("ipv6:%5B::ffff:127.0.0.2%5D:50") == ("127.0.0.2", 50)
    assert client_of("unix:/run/x.sock") is None


def connects(listener: socket.socket, source: str) -> bool:
    """Return true if a connection from an address is accepted, and carries bytes."""
    with socket.socket(socket.AF_INET6 if ":" in source else socket.AF_INET) as client:
        client.bind((source, 0))
        client.settimeout(0.3)
        try:
            client.connect(("::1" if ":" in source else "127.0.0.1", listener.getsockname()[1]))
        except TimeoutError:
            return False
        accepted, _ = listener.accept()
        with accepted:
            client.sendall(b"x" * 1000)
            assert accepted.recv(2000) == b"x" * 1000
        return True


@pytest.mark.skipif(not connection_limits.IS_SUPPORTED, reason="a filter of Linux")
class TestFilter:
    def test_packets_of_an_address_are_dropped(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            set_filter(listener, ["127.0.0.9", "127.0.0.2", "2001:db8::/64"])
            answered = [connects(listener, source) for source in ("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.9")]
            assert answered == [True, False, True, False]
            set_filter(listener, ["127.0.0.3"])
            assert [connects(listener, source) for source in ("127.0.0.2", "127.0.0.3")] == [True, False]
            set_filter(listener, [])
            assert connects(listener, "127.0.0.3")

    @pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")
    def test_packets_of_a_network_of_ipv6_are_dropped(self) -> None:
        listener = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        with listener:
            set_filter(listener, ["::/64", "127.0.0.2"])
            assert [connects(listener, source) for source in ("::1", "127.0.0.1", "127.0.0.2")] == [False, True, False]
            set_filter(listener, ["2001:db8::/64"])
            assert [connects(listener, source) for source in ("::1", "127.0.0.2")] == [True, True]


def reset_calls(connection: socket.socket, count: int, *more: tuple[str, str]) -> None:
    http = H2Connection(H2Configuration(client_side=True, validate_outbound_headers=False))
    http.initiate_connection()
    path = "/palm_serve.v1.DialogueUnderstanding/Parse"
    headers = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "here")]
    for _ in range(count):
        stream = http.get_next_available_stream_id()
        http.send_headers(stream, [*headers, ("content-type", "application/grpc"), ("te", "trailers"), *more])
        http.reset_stream(stream)
    connection.sendall(http.data_to_send())


def ends(connection: socket.socket, seconds: float = LIMIT_S) -> bool:
    """Return true if the server closes the connection within a time."""
    connection.settimeout(seconds)
    try:
        while connection.recv(4096):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


def wait_for_error(process: Process, text: str) -> None:
    end = time.monotonic() + LIMIT_S
    while not any(text in line for line in process.errors):
        assert time.monotonic() < end, process.errors
        time.sleep(0.02)


@pytest.mark.skipif(not connection_limits.IS_SUPPORTED, reason="needs /proc and epoll")
def test_connection_that_resets_its_calls_is_closed_and_its_address_blocked(
    start_server: Callable[..., Process], tiny_bundle: Path
) -> None:
    process = start_server(tiny_bundle, "--drain-grace", "0")
    target = process.target()
    host, _, port = target.rpartition(":")
    here = (host, int(port))
    with (
        Client(target, timeout_s=LIMIT_S) as client,
        socket.create_connection(here, LIMIT_S, ("127.0.0.3", 0)) as few,
        socket.create_connection(here, LIMIT_S, ("127.0.0.4", 0)) as hasty,
        socket.create_connection(here, LIMIT_S, ("127.0.0.2", 0)) as flood,
    ):
        assert client.parse("play a song").intent.name == "music"
        reset_calls(few, 50)
        reset_calls(hasty, 2 * RESET_BURST, ("grpc-timeout", "10m"))
        reset_calls(flood, 2 * RESET_BURST)
        assert ends(flood)
        wait_for_error(process, "connections of 127.0.0.2 are closed, and refused for a while")
        with pytest.raises(TimeoutError):
            socket.create_connection(here, 0.5, ("127.0.0.2", 0))
        with socket.create_connection(here, LIMIT_S, ("127.0.0.3", 0)):
            pass
        assert client.parse("play a song").intent.name == "music"
        for connection in (few, hasty):  # a client resets calls whose deadline has passed, too
            assert not ends(connection, 0.2)
    process.process.terminate()
    assert process.finish() == 0
    assert sum("are closed, and refused" in line for line in process.errors) == 1


async def call_and_cancel(target: str, calls: int) -> tuple[int, list[str]]:
    """Make calls on one connection, of which every third is cancelled before it can be read. Return answers and failures."""
    options = (("grpc.enable_http_proxy", 0),)
    async with grpc.aio.insecure_channel(target, options=options) as channel:
        stub = palm_pb2_grpc.DialogueUnderstandingStub(channel)
        request = palm_pb2.ParseRequest(text="play a song")
        failures = []
        answered = 0
        for _ in range(calls // 60):
            kept = [stub.Parse(request, timeout=LIMIT_S) for _ in range(40)]
            left = [stub.Parse(request) for _ in range(20)]
            await asyncio.sleep(0)
            for call in left:
                call.cancel()
            for outcome in await asyncio.gather(*kept, return_exceptions=True):
                if isinstance(outcome, Exception):
                    failures.append(str(outcome))
                else:
                    answered += 1
        return answered, failures


@pytest.mark.skipif(not connection_limits.IS_SUPPORTED, reason="needs /proc and epoll")
def test_client_that_cancels_some_of_many_calls_is_not_blocked(
    start_server: Callable[..., Process], tiny_bundle: Path
) -> None:
    process = start_server(tiny_bundle, "--drain-grace", "0")
    answered, failures = asyncio.run(call_and_cancel(process.target(), 3000))
    assert failures == []
    assert answered == 2000
    process.process.terminate()
    assert process.finish() == 0
    assert process.errors == []


@pytest.mark.skipif(not connection_limits.IS_SUPPORTED, reason="needs /proc and epoll")
def test_address_of_a_proxy_is_not_blocked(start_server: Callable[..., Process], tiny_bundle: Path) -> None:
    process = start_server(tiny_bundle, "--max-connections-per-address", "0", "--drain-grace", "0")
    host, _, port = process.target().rpartition(":")
    here = (host, int(port))
    with socket.create_connection(here, LIMIT_S, ("127.0.0.2", 0)) as flood:
        reset_calls(flood, 2 * RESET_BURST)
        assert ends(flood)
    time.sleep(0.1)
    with socket.create_connection(here, LIMIT_S, ("127.0.0.2", 0)):
        pass
    process.process.terminate()
    assert process.finish() == 0
    assert any("Its next connections are accepted" in line for line in process.errors)

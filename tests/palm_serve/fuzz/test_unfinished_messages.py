"""Messages that never arrive whole: what the server holds of them is bounded, and other clients are answered."""

import hashlib
import re
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived, StreamEnded, StreamReset, TrailersReceived
from h2.exceptions import NoSuchStreamError, StreamClosedError

from palm_serve.client import Client

Process = Any  # of conftest.py, which cannot be imported by name
Headers = tuple[tuple[str, str], ...]
MIB = 1 << 20
MESSAGE_BYTES = 4 * MIB - 100
GROWTH_MIB = 32
PATIENCE_S = 60.0
TOKEN = "palm_unfinished"
TIMEOUT_S = 3
UNAUTHENTICATED, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, INVALID_ARGUMENT = "16", "4", "8", "3"
METHODS = (
    "palm_serve.v1.DialogueUnderstanding/Parse",
    "palm_serve.v1.DialogueUnderstanding/ParseBatch",
    "palm_serve.v1.DialogueUnderstanding/ParseStream",
    "palm_serve.v1.Prediction/Predict",
    "palm_serve.v1.Models/LoadModel",
    "inference.GRPCInferenceService/ModelInfer",
    "inference.GRPCInferenceService/ModelStreamInfer",
    "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
)
HEALTH = ("grpc.health.v1.Health/Check", "grpc.health.v1.Health/Watch", "inference.GRPCInferenceService/ServerLive")

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="what the server holds is read from /proc"
)


class Sender:
    """One connection with calls whose messages are sent as far as the server lets them, and never ended."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=10)
        self.http = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.http.initiate_connection()
        self.flush()
        self.unsent: dict[int, memoryview] = {}
        self.statuses: dict[int, str] = {}
        self.ended: set[int] = set()

    def __enter__(self) -> "Sender":
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()

    def flush(self) -> None:
        self.socket.sendall(self.http.data_to_send())

    def begin(self, method: str, metadata: Headers = (), message: bytes | None = None, end: bool = False) -> int:
        stream = self.http.get_next_available_stream_id()
        common = ((":method", "POST"), (":scheme", "http"), (":path", f"/{method}"), (":authority", "here"))
        headers = (*common, ("content-type", "application/grpc"), ("te", "trailers"), *metadata)
        self.http.send_headers(stream, headers, end_stream=end)
        if not end:
            if message is None:
                message = b"\0" + struct.pack(">I", MESSAGE_BYTES) + bytes(MESSAGE_BYTES - 100)
            self.unsent[stream] = memoryview(message)
        self.flush()
        return stream

    def turn(self) -> bool:
        """Send what the windows allow and read what has come. Return whether anything moved."""
        moved = False
        for stream, rest in list(self.unsent.items()):
            try:
                room = self.http.local_flow_control_window(stream)
                size = min(room, self.http.max_outbound_frame_size, len(rest))
                if size > 0:
                    self.http.send_data(stream, rest[:size])
                    self.unsent[stream] = rest[size:]
                    moved = True
            except (StreamClosedError, NoSuchStreamError):
                del self.unsent[stream]
        self.flush()
        while select.select([self.socket], [], [], 0)[0]:
            data = self.socket.recv(1 << 18)
            if not data:
                raise ConnectionError("the server has closed the connection")
            for event in self.http.receive_data(data):
                self.note(event)
            self.flush()
            moved = True
        return moved

    def note(self, event: object) -> None:
        if isinstance(event, ResponseReceived | TrailersReceived):
            for name, value in event.headers:
                if name == "grpc-status":
                    self.statuses[event.stream_id] = value
        elif isinstance(event, StreamEnded | StreamReset):
            self.ended.add(event.stream_id)
            self.unsent.pop(event.stream_id, None)
        elif isinstance(event, DataReceived):
            self.http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)


def resident_mib(server: Process) -> float:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+)", status)
    assert found is not None
    return int(found[1]) / 1024


def attack(server: Process, methods: list[str], metadata: Headers, until: Callable[[list[Sender]], bool]) -> float:
    """Begin the calls on two connections and go on `until` a condition. Return the growth of the server in MiB."""
    before = highest = resident_mib(server)
    with ExitStack() as stack:
        senders = [stack.enter_context(Sender(server.target())) for _ in range(2)]
        for number, method in enumerate(methods):
            senders[number % 2].begin(method, metadata)
        end = time.monotonic() + PATIENCE_S
        while not until(senders):
            assert time.monotonic() < end, [sender.statuses for sender in senders]
            moved = 0
            for sender in senders:
                moved += sender.turn()
            if not moved:
                time.sleep(0.01)
            highest = max(highest, resident_mib(server))
    return highest - before


def statuses(senders: list[Sender]) -> list[str]:
    found: list[str] = []
    for sender in senders:
        found.extend(sender.statuses.values())
    return found


def bearer(token: str) -> Headers:
    return (("authorization", f"Bearer {token}"),)


@pytest.fixture(scope="module")
def server(
    start_shared_server: Callable[..., Process], tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Process]:
    file = tmp_path_factory.mktemp("tokens") / "tokens.toml"
    digests = {name: hashlib.sha256(f"{TOKEN}_{name}".encode()).hexdigest() for name in ("slow", "other")}
    scopes = ["parse", "read", "control"]
    file.write_text(
        "".join(f'[tokens.{name}]\nsha256 = "{value}"\nscopes = {scopes}\n' for name, value in digests.items())
    )
    options = ("--message-timeout", str(TIMEOUT_S), "--drain-grace", "0", "--log-level", "error")
    process = start_shared_server(tiny_bundle, "--tokens", file, *options)
    with Client(process.target(), token=f"{TOKEN}_other") as client:
        client.parse("play a song")
    yield process
    process.process.terminate()
    assert process.finish() == 0, process.errors
    assert process.errors == []


def test_calls_without_a_token_end_on_their_headers(server: Process) -> None:
    """Every method, 100 unfinished messages of 4 MiB: all are refused, and almost nothing is held."""
    methods = [METHODS[number % len(METHODS)] for number in range(100)]
    found: list[str] = []

    def until(senders: list[Sender]) -> bool:
        found[:] = statuses(senders)
        return len(found) == 100

    growth = attack(server, methods, (), until)
    assert found == [UNAUTHENTICATED] * 100
    assert growth <= GROWTH_MIB


@pytest.mark.parametrize(("methods", "token"), [(METHODS, "slow"), (HEALTH, "")], ids=["token", "health"])
def test_unfinished_messages_are_bounded_and_ended(server: Process, methods: tuple[str, ...], token: str) -> None:
    """Calls that are let in hold a bounded amount, end after --message-timeout, and leave room for others."""
    metadata = bearer(f"{TOKEN}_{token}") if token else ()
    # An address has 16 watches, and these would be refused at once.
    chosen = [methods[number % len(methods)] for number in range(100)]
    found: list[str] = []
    answered = 0
    with Client(server.target(), token=f"{TOKEN}_other", retries=0, timeout_s=PATIENCE_S) as neighbour:

        def until(senders: list[Sender]) -> bool:
            nonlocal answered
            assert neighbour.parse("play a song").intent.name == "music"
            answered += 1
            found[:] = statuses(senders)
            return len(found) == 100

        growth = attack(server, chosen, metadata, until)
    assert set(found) <= {DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED}
    assert answered > 10
    assert growth <= GROWTH_MIB


def test_health_is_answered_beside_unfinished_health_checks(server: Process) -> None:
    checks = 0
    with grpc.insecure_channel(server.target()) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check

        def until(senders: list[Sender]) -> bool:
            nonlocal checks
            assert check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S).status == 1
            checks += 1
            return len(statuses(senders)) == 30

        attack(server, [HEALTH[0]] * 30, (), until)
    assert checks >= 3


def test_message_larger_than_declared_limit_is_refused_by_its_size(server: Process) -> None:
    """The declared size is refused before the message arrives."""
    before = resident_mib(server)
    with Sender(server.target()) as sender:
        stream = sender.begin(METHODS[0], bearer(f"{TOKEN}_slow"), b"\0" + struct.pack(">I", 1 << 30) + bytes(1 << 20))
        end = time.monotonic() + PATIENCE_S
        while stream not in sender.statuses and time.monotonic() < end:
            sender.turn()
        assert sender.statuses[stream] == RESOURCE_EXHAUSTED
    assert resident_mib(server) - before < 8


def test_call_without_a_message_is_answered(server: Process) -> None:
    with Sender(server.target()) as sender:
        stream = sender.begin(METHODS[0], bearer(f"{TOKEN}_slow"), end=True)
        end = time.monotonic() + PATIENCE_S
        while stream not in sender.statuses and time.monotonic() < end:
            sender.turn()
        assert sender.statuses[stream] == INVALID_ARGUMENT


def test_call_that_awaits_its_message_gets_unavailable_at_the_stop(
    start_server: Callable[..., Process], tiny_bundle: Path
) -> None:
    process = start_server(tiny_bundle, "--drain-grace", "0", "--stop-timeout", "1")
    never = threading.Event()

    def messages() -> Iterator[bytes]:
        never.wait()
        yield b""

    with grpc.insecure_channel(process.target()) as channel:
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        call = channel.stream_unary(f"/{METHODS[0]}").future(messages(), timeout=PATIENCE_S)
        time.sleep(0.5)
        process.process.terminate()
        assert call.code() is grpc.StatusCode.UNAVAILABLE
        never.set()
    assert process.finish() == 0

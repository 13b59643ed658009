"""Calls of one client to several replicas: how they are divided, and what happens when one slows down, hangs or ends."""

import asyncio
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import RequestReceived

from palm_serve.client import AsyncClient, Client, balancing
from palm_serve.errors import DeadlineExceeded, InvalidRequest, PalmServeError, Unavailable
from palm_serve.rpc.load_report import LOAD_REPORT_KEY
from palm_serve.v1 import palm_pb2 as pb

BALANCES = ("round_robin", "weighted", "least")
CALLERS = 8


class Replica:
    """A server whose answer is slow by `delay_s`, and that reports a share of its capacity as used.

    Args:
        utilization: reported share. 0: no report.
        host: address that it listens on.
        port: 0 for a free one.
    """

    def __init__(self, utilization: float = 0.0, host: str = "127.0.0.1", port: int = 0) -> None:
        self.calls = 0
        self.delay_s = 0.002
        self.fails = False
        self._utilization = utilization
        self._lock = threading.Lock()
        self._server = grpc.server(ThreadPoolExecutor(CALLERS), options=(("grpc.so_reuseport", 0),))
        answer = grpc.unary_unary_rpc_method_handler(self._list_models)
        handlers = grpc.method_handlers_generic_handler("palm_serve.v1.Models", {"ListModels": answer})
        self._server.add_generic_rpc_handlers([handlers])
        self.port = self._server.add_insecure_port(f"{host}:{port}")
        self.address = f"{host}:{self.port}"
        self._server.start()

    def stop(self) -> None:
        """Finish the calls in flight and end."""
        self._server.stop(10).wait()

    def _list_models(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        time.sleep(self.delay_s)
        with self._lock:
            self.calls += 1
        if self.fails:
            context.abort(grpc.StatusCode.INTERNAL, "broken")
        if self._utilization:
            report = struct.pack("<BdBd", 6 << 3 | 1, 100.0, 9 << 3 | 1, self._utilization)
            context.set_trailing_metadata(((LOAD_REPORT_KEY, report),))
        return bytes(pb.ListModelsResponse().SerializeToString())


@pytest.fixture
def make_replicas() -> Iterator[Callable[..., list[Replica]]]:
    """`make_replicas(0.9, 0.3)`: replicas that report such shares."""
    running: list[Replica] = []

    def make(*utilizations: float, **options: Any) -> list[Replica]:
        replicas = [Replica(utilization, **options) for utilization in utilizations]
        running.extend(replicas)
        return replicas

    yield make
    for replica in running:
        replica.stop()


def target_of(replicas: list[Replica]) -> str:
    return "ipv4:" + ",".join(replica.address for replica in replicas)


def call_many(client: Client, count: int, callers: int = CALLERS) -> None:
    """Make so many calls, and raise the error of one that fails."""
    with ThreadPoolExecutor(callers) as pool:
        for done in [pool.submit(client.models) for _ in range(count)]:
            done.result()


@pytest.mark.parametrize("balance", BALANCES)
def test_calls_are_divided_among_equal_replicas(make_replicas: Callable[..., list[Replica]], balance: Any) -> None:
    replicas = make_replicas(0.5, 0.5, 0.5)
    with Client(target_of(replicas), balance=balance) as client:
        call_many(client, 30)  # until all connections are open
        before = [replica.calls for replica in replicas]
        call_many(client, 900)
    shares = [(replica.calls - earlier) / 900 for replica, earlier in zip(replicas, before, strict=True)]
    assert sum(shares) == pytest.approx(1)
    # The less busy one of two drawn at random is as even as its draws.
    assert all(abs(share - 1 / 3) < (0.1 if balance == "least" else 0.034) for share in shares), shares


def test_round_robin_is_the_default(make_replicas: Callable[..., list[Replica]]) -> None:
    replicas = make_replicas(0.0, 0.0)
    with Client(target_of(replicas)) as client:
        call_many(client, 20)
        call_many(client, 200, callers=1)
    assert min(replica.calls for replica in replicas) > 80


def test_weighted_calls_follow_the_reported_load(make_replicas: Callable[..., list[Replica]]) -> None:
    """The first uses three times the share of the others for the same rate, so it gets a third of their calls."""
    replicas = make_replicas(0.9, 0.3, 0.3)
    with Client(target_of(replicas), balance="weighted") as client:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            before = [replica.calls for replica in replicas]
            call_many(client, 700)
            counts = [replica.calls - earlier for replica, earlier in zip(replicas, before, strict=True)]
            if counts[0] < 0.2 * sum(counts):  # the weights count some seconds after the first reports
                break
    assert 0.1 * sum(counts) < counts[0] < 0.2 * sum(counts), counts
    assert counts[1] == pytest.approx(counts[2], rel=0.1)


def test_least_avoids_a_slow_replica(make_replicas: Callable[..., list[Replica]]) -> None:
    replicas = make_replicas(0.0, 0.0, 0.0)
    replicas[0].delay_s = 0.2
    with Client(target_of(replicas), balance="least") as client:
        call_many(client, 900)
    assert sum(replica.calls for replica in replicas) == 900
    assert replicas[0].calls < 150  # in turn it would have 300


@pytest.mark.parametrize("balance", BALANCES)
def test_calls_move_to_the_others_while_a_replica_is_away(
    make_replicas: Callable[..., list[Replica]], balance: Any
) -> None:
    replicas = make_replicas(0.5, 0.5, 0.5)
    with Client(target_of(replicas), balance=balance) as client:
        call_many(client, 60)
        replicas[1].stop()
        call_many(client, 300)
        restarted = make_replicas(0.5, port=replicas[1].port)
        end = time.monotonic() + 60
        while not restarted[0].calls and time.monotonic() < end:
            call_many(client, 20)
    assert restarted[0].calls


@pytest.mark.parametrize("balance", BALANCES)
def test_real_server_that_is_killed_loses_no_call(
    tiny_bundle: Path, start_server: Callable[..., Any], balance: Any
) -> None:
    servers = [start_server(tiny_bundle, "--log-level", "error") for _ in range(3)]
    target = "ipv4:" + ",".join(server.target() for server in servers)
    with Client(target, balance=balance, timeout_s=60) as client, ThreadPoolExecutor(CALLERS) as pool:
        assert client.parse("play a song").intent.name
        calls = [pool.submit(client.parse, "play a song") for _ in range(600)]
        while sum(call.done() for call in calls) < 100:
            time.sleep(0.01)
        servers[0].process.kill()
        assert {call.result().version for call in calls} == {client.parse("x").version}


@pytest.mark.slow
def test_least_hardly_calls_a_server_that_hangs(tiny_bundle: Path, start_server: Callable[..., Any]) -> None:
    """The engine takes 40 ms for each batch, so that the work of others on this machine counts little."""
    slowed = (sys.executable, str(Path(__file__).parents[2] / "slowed_server.py"), "0.04", "0")
    options = ("--log-level", "error", "--provider", "CPU")
    servers = [start_server(tiny_bundle, *options, before=slowed) for _ in range(3)]
    target = "ipv4:" + ",".join(server.target() for server in servers)

    def call() -> float:
        began = time.monotonic()
        with suppress(DeadlineExceeded):
            client.parse("play a song", timeout_s=8)
        return time.monotonic() - began

    def p99_s(count: int) -> float:
        calls = [pool.submit(call) for _ in range(count)]
        return sorted(done.result() for done in calls)[int(0.99 * count)]

    with Client(target, balance="least") as client, ThreadPoolExecutor(CALLERS) as pool:
        p99_s(50)  # until all connections are open
        usual = p99_s(300)
        servers[2].process.send_signal(signal.SIGSTOP)
        try:
            # All callers but one may hang there once; then it is avoided for 5 s after each deadline that it lets pass.
            hanging = p99_s(1_500)
        finally:
            servers[2].process.send_signal(signal.SIGCONT)
        usual = max(usual, p99_s(300))
    assert hanging < 2 * usual


@pytest.mark.slow
@pytest.mark.parametrize("balance", ["round_robin", "weighted"])
def test_replica_that_fails_all_calls_gets_none_for_a_while(
    make_replicas: Callable[..., list[Replica]], balance: Any
) -> None:
    """By gRPC's outlier detection: first it gets its share, then none, and 10 s later it is tried again."""
    replicas = make_replicas(0.5, 0.5, 0.5)
    replicas[0].fails = True

    def calls_of_the_broken_one() -> int:
        before = replicas[0].calls
        for _ in range(60):
            with suppress(PalmServeError):
                client.models()
        return replicas[0].calls - before

    def wait_until_it_gets(some: bool) -> None:
        end = time.monotonic() + 120
        while bool(calls_of_the_broken_one()) != some:
            assert time.monotonic() < end

    with Client(target_of(replicas), balance=balance) as client:
        for some in (True, False, True):
            wait_until_it_gets(some)


def test_a_name_has_all_its_addresses(
    make_replicas: Callable[..., list[Replica]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A headless service has one address a replica, and other ones after a rollout."""
    replicas = make_replicas(0.0, 0.0, 0.0)
    known = [replicas[0], replicas[1]]

    def look_up(host: str, port: int, **_: Any) -> list[Any]:
        assert (host, port) == ("palm.example", 50051)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", replica.port)) for replica in known]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(balancing, "_RESOLVE_S", 0.1)
    with Client("dns:///palm.example:50051", balance="least") as client:
        call_many(client, 100)
        assert min(replicas[0].calls, replicas[1].calls) > 10
        assert not replicas[2].calls
        known[0] = replicas[2]
        end = time.monotonic() + 60
        while not replicas[2].calls and time.monotonic() < end:
            call_many(client, 10)
        before = replicas[0].calls
        call_many(client, 100)
        assert replicas[0].calls == before
        assert len(client._connection._replicas.channels()) == 2


def test_a_name_without_an_address_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with (
        Client("nobody.invalid:50051", balance="least") as client,
        pytest.raises(
            Unavailable, match=r"at nobody\.invalid:50051: its name has no address: Name or service not known"
        ),
    ):
        client.models()


def test_asyncio_client_balances_too(make_replicas: Callable[..., list[Replica]]) -> None:
    replicas = make_replicas(0.0, 0.0, 0.0)
    replicas[0].delay_s = 0.2

    async def run() -> None:
        async with AsyncClient(target_of(replicas), balance="least") as client:
            await asyncio.gather(*(caller(client) for _ in range(CALLERS)))

    async def caller(client: AsyncClient) -> None:
        for _ in range(50):
            await client.models()

    asyncio.run(run())
    assert sum(replica.calls for replica in replicas) == 400
    assert replicas[0].calls < 120


@pytest.mark.parametrize(
    ("target", "balance", "message"),
    [
        ("localhost:1", "fastest", "balance must be round_robin, weighted, least, got 'fastest'"),
        ("dns://8.8.8.8/palm:50051", "least", "target must be a name that this machine looks up"),
    ],
)
def test_what_cannot_be_balanced_is_refused(target: str, balance: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        Client(target, balance=balance)


@pytest.mark.parametrize("balance", BALANCES)
def test_request_names_one_server_and_no_list(balance: balancing.Balance) -> None:
    """HAProxy, such as the ingress of Ray Serve, refuses a host name with a comma."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        read = pool.submit(read_authority, listener)
        with Client(f"ipv4:{address},{address}", balance=balance, retries=0, timeout_s=20) as client:
            with pytest.raises(Unavailable):
                client.models()
            assert read.result(60) == address


def read_authority(listener: socket.socket) -> str:
    """Return what the first request on the next connection names as its server, and close the connection."""
    connection, _ = listener.accept()
    state = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
    state.initiate_connection()
    with connection:
        while True:
            connection.sendall(state.data_to_send())
            for event in state.receive_data(connection.recv(65536)):
                if isinstance(event, RequestReceived):
                    return str(dict(event.headers)[":authority"])

"""One address that opens many connections, in front of a real server. Others are answered."""

import re
import resource
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from palm_serve.client import Client
from palm_serve.config import ServeOptions
from palm_serve.rpc.access.rate_limits import client_address, client_network
from palm_serve.rpc.transport import connection_limits
from palm_serve.rpc.transport.connection_limits import address_limit, connection_limit, grpc_connection_limit

Process = Any  # of conftest.py, which cannot be imported by name
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)
FLOOD = 1000
LIMIT_S = 60.0

pytestmark = pytest.mark.skipif(not connection_limits.IS_SUPPORTED, reason="needs /proc and epoll")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def metric(port: int, series: str) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=LIMIT_S) as response:
        found = re.search(rf"^{re.escape(series)} (\S+)$", response.read().decode(), re.MULTILINE)
    assert found, f"no {series}"
    return float(found[1])


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture
def connections() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def hold(stack: ExitStack, target: str, source: str) -> socket.socket:
    """Open a connection that says hello and nothing else."""
    host, _, port = target.rpartition(":")
    connection = stack.enter_context(socket.create_connection((host, int(port)), LIMIT_S, (source, 0)))
    with suppress(ConnectionError):
        connection.sendall(HELLO)
    return connection


def is_open(connection: socket.socket) -> bool:
    """Return true if the server has not closed the connection."""
    connection.settimeout(0.01)
    try:
        while connection.recv(4096):
            pass
    except TimeoutError:
        return True
    except ConnectionError:
        pass
    return False


def test_one_address_cannot_take_all_connections(
    start_server: Callable[..., Process], tiny_bundle: Path, connections: ExitStack
) -> None:
    port = free_port()
    process = start_server(tiny_bundle, "--max-connections", "400", "--metrics-port", port, "--drain-grace", "0")
    target = process.target()
    early = [hold(connections, target, "127.0.0.2") for _ in range(20)]
    wait_until(lambda: metric(port, "palm_connections") == 20)
    flood = [hold(connections, target, "127.0.0.7") for _ in range(FLOOD)]
    series = 'palm_connections_refused_total{reason="address"}'
    wait_until(lambda: metric(port, "palm_connections") == 120 and metric(port, series) > 0)
    with Client(target, timeout_s=LIMIT_S) as client:
        assert client.parse("play a song").intent.name == "music"
        assert metric(port, "palm_connections") == 121
    assert all(map(is_open, early))
    assert sum(map(is_open, flood)) == 100
    process.process.terminate()
    assert process.finish() == 0
    assert len(process.errors) == 1
    assert "connections of 127.0.0.7 are refused: it has reached the limit of 100 for one address" in process.errors[0]


def test_connections_over_the_limit_are_counted(
    start_server: Callable[..., Process], tiny_bundle: Path, connections: ExitStack
) -> None:
    """Behind a proxy, where addresses say nothing."""
    port = free_port()
    options = ("--max-connections", "30", "--max-connections-per-address", "0", "--metrics-port", port)
    process = start_server(tiny_bundle, *options, "--drain-grace", "0")
    target = process.target()
    held = [hold(connections, target, "127.0.0.7") for _ in range(33)]
    wait_until(lambda: metric(port, 'palm_connections_refused_total{reason="total"}') == 3)
    assert metric(port, 'palm_connections_refused_total{reason="address"}') == 0
    assert metric(port, "palm_connections") == 30
    late = hold(connections, target, "127.0.0.8")
    wait_until(lambda: not is_open(late))
    for connection in held:
        connection.close()
    wait_until(lambda: metric(port, "palm_connections") == 0)
    with Client(target, timeout_s=LIMIT_S) as client:
        assert client.parse("play a song").intent.name == "music"
    process.process.terminate()
    assert process.finish() == 0
    assert len(process.errors) == 1
    assert "the limit of 30 is reached" in process.errors[0]


def test_health_port_and_all_interfaces_are_limited(
    start_server: Callable[..., Process], tiny_bundle: Path, connections: ExitStack
) -> None:
    """A server on all addresses sees IPv4 clients as IPv6 addresses of one network."""
    health, metrics = free_port(), free_port()
    process = start_server(
        *(tiny_bundle, "--host", "::", "--health-port", health, "--metrics-port", metrics),
        *("--max-connections-per-address", "5", "--drain-grace", "0", "--log-level", "error"),
    )
    process.wait_for("ready;")
    port = process.wait_for(r"listening on .*:(\d+)$")
    target = f"127.0.0.1:{port}"
    for place in (target, f"127.0.0.1:{health}"):
        for source in ("127.0.0.2", "127.0.0.3"):
            for _ in range(6):
                hold(connections, place, source)
    wait_until(lambda: metric(metrics, 'palm_connections_refused_total{reason="address"}') == 14)
    assert metric(metrics, "palm_connections") == 10


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:10.0.0.7:1", "10.0.0.7"),
        ("ipv6:%5B2001:db8:1:2:3::4%5D:1", "2001:db8:1:2::/64"),
        ("ipv6:%5B::ffff:10.0.0.7%5D:1", "10.0.0.7"),
        ("ipv6:%5Bfe80::1%25eth0%5D:1", "fe80::/64"),
        ("unix:", "unix"),
        ("unix:/client/chose/this", "unix"),
        ("unix-abstract:and-this", "unix"),
    ],
)
def test_address_of_a_peer(peer: str, address: str) -> None:
    assert client_address(peer) == address
    assert client_network("fe80::1%eth0") == "fe80::/64"


def test_limits_follow_the_open_files() -> None:
    assert address_limit(ServeOptions(max_connections=400)) == 100
    assert address_limit(ServeOptions(max_connections=4)) == 16
    assert address_limit(ServeOptions(max_connections_per_address=0)) == 0
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    try:
        options = ServeOptions()
        assert connection_limit(options) == 784
        assert grpc_connection_limit(options) == 896
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_limit_without_effect_prints_warning(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """On a system without /proc gRPC's own limit is that of all connections."""
    monkeypatch.setattr(connection_limits, "IS_SUPPORTED", False)
    options = ServeOptions(max_connections=400)
    assert grpc_connection_limit(options) == 400
    connection_limits.ConnectionLimits(options).start([1])
    assert caplog.text == ""
    connection_limits.ConnectionLimits(ServeOptions(max_connections_per_address=5)).start([1])
    assert "max_connections_per_address has no effect" in caplog.text


class TestOpenFiles:
    """Limits of open files at the start."""

    @staticmethod
    def limited(soft: int, hard: int) -> tuple[str, ...]:
        return ("sh", "-c", f'ulimit -Sn {soft} && ulimit -Hn {hard} && exec "$@"', "sh")

    def test_soft_limit_is_raised(self, start_server: Callable[..., Process], tiny_bundle: Path) -> None:
        process = start_server(tiny_bundle, "--max-connections", "500", before=self.limited(256, 1024))
        process.target()
        limits = Path(f"/proc/{process.process.pid}/limits").read_text()
        assert re.search(r"Max open files\s+1024\s+1024", limits)
        process.process.terminate()
        assert process.finish() == 0
        assert process.errors == []

    def test_too_few_files_for_connections_print_warning(
        self, start_server: Callable[..., Process], tiny_bundle: Path
    ) -> None:
        process = start_server(tiny_bundle, before=self.limited(512, 512))
        with Client(process.target()) as client:
            assert client.health()
        process.process.terminate()
        assert process.finish() == 0
        assert len(process.errors) == 1
        assert "at most 336 connections are accepted instead of max_connections = 10000" in process.errors[0]

    @pytest.mark.parametrize("files", [255, 100])
    def test_too_few_files_end_the_start(
        self, start_server: Callable[..., Process], tiny_bundle: Path, files: int
    ) -> None:
        process = start_server(tiny_bundle, before=self.limited(files, files))
        assert process.finish() == 2
        [line] = process.errors
        assert f"must be able to open at least 256 files, got {files} (ulimit -n)" in line


def test_looking_is_cheap() -> None:
    """A process of its own, so that sockets of other tests do not count."""
    script = """
import socket, time
from palm_serve.config import ServeOptions
from palm_serve.rpc.transport.connection_limits import ConnectionLimits
listener = socket.create_server(("127.0.0.1", 0), backlog=2000)
held = []
for _ in range(1000):
    client = socket.create_connection(listener.getsockname())
    held += [client, listener.accept()[0]]
limits = ConnectionLimits(ServeOptions())
limits._names = frozenset([listener.getsockname()[1]])
assert limits.open_connections() == 1000
times = []
for _ in range(20):
    began = time.thread_time()
    limits.look()
    times.append(time.thread_time() - began)
print(min(times))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.05

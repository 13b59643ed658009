"""Calls to this machine never go through a proxy of the environment: it would read texts and tokens."""

import asyncio
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as collected
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as collecting
from typer.testing import CliRunner

from palm_serve.cli import app
from palm_serve.client import AsyncClient, Client
from palm_serve.client.channel import channel_options, open_channel
from palm_serve.errors import TlsError, Unavailable
from palm_serve.observability.tracing import Tracing
from palm_serve.system.addresses import is_local_target, proxy_options
from palm_serve.types import CallRecord

Relay = Any  # of conftest.py, which cannot be imported by name
SECRET = "token-of-this-test"

LOCAL = (
    *(
        "127.0.0.1:1",
        "127.9.9.9:1",
        "localhost:1",
        "LOCALHOST",
        "localhost.:1",
        "[::1]:1",
        "::1",
        "0.0.0.0:1",
        "[::]:1",
    ),
    *("dns:///localhost:1", "dns:127.0.0.9", "dns:///[::1]:1", "ipv4:127.0.0.1:1,127.0.0.2:1", "ipv6:[::1]:1"),
    *("ipv6:%5B::1%5D:1", "[::ffff:127.0.0.1]:1", "unix:/run/palm", "unix:///run/palm", "unix-abstract:palm"),
)
OTHER = (
    *("10.0.0.7:1", "palm.example:1", "localhost.example:1", "127.0.0.1.example:1", "[2001:db8::1]:1"),
    *("ipv4:127.0.0.1:1,10.0.0.7:1", "ipv4:127.0.0.1:1%2C10.0.0.7:1", "dns://8.8.8.8/localhost:1"),
    *("dns://127.0.0.1/palm:1", "xds:///localhost", "", ":1", "[::ffff:10.0.0.7]:1"),
)


@pytest.mark.parametrize("target", LOCAL)
def test_targets_of_this_machine_use_no_proxy(target: str) -> None:
    assert is_local_target(target)
    assert dict(proxy_options(target))["grpc.enable_http_proxy"] == 0
    Client(target, token="t").close()


@pytest.mark.parametrize("target", OTHER)
def test_other_targets_may_use_a_proxy_without_token(target: str) -> None:
    assert not is_local_target(target)
    assert proxy_options(target) == ()
    assert dict(proxy_options(target, use_proxy=False))["grpc.enable_http_proxy"] == 0
    with pytest.raises(TlsError, match=r"must not be sent to .* in plain text"):
        Client(target, token="t")


def names(tiny_server: str) -> list[str]:
    """Return several names of the server."""
    port = tiny_server.rpartition(":")[2]
    return [tiny_server, f"localhost:{port}", f"0.0.0.0:{port}", f"ipv4:{tiny_server}", f"dns:///localhost:{port}"]


def test_clients_call_this_machine_directly(tiny_server: str, environment_proxy: Relay) -> None:
    async def ask(target: str) -> str:
        async with AsyncClient(target, token=SECRET) as client:
            return (await client.parse("play a song")).intent.name

    for target in names(tiny_server):
        with Client(target, token=SECRET) as client:
            assert client.parse("play a song").intent.name == "music"
        assert asyncio.run(ask(target)) == "music"
    assert environment_proxy.received == b""


def test_commands_call_this_machine_directly(tiny_server: str, environment_proxy: Relay, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(SECRET)
    token = ("--token-file", str(tmp_path / "token"))
    for arguments in (
        ("health", tiny_server, *token),
        ("call", "play a song", "--target", tiny_server, *token),
        ("bench", tiny_server, "--duration", "0.2", "--warm-up", "0", "--concurrency", "2", *token),
    ):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
    assert environment_proxy.received == b""


def test_load_generator_calls_this_machine_directly(tiny_server: str, environment_proxy: Relay) -> None:
    async def connect() -> None:
        async with open_channel(grpc.aio, tiny_server, None, channel_options(tiny_server)) as channel:
            await asyncio.wait_for(channel.channel_ready(), 60)

    asyncio.run(connect())
    assert environment_proxy.received == b""


class Collector(collecting.TraceServiceServicer):
    """An OTLP collector that counts the exports."""

    exports = 0

    def Export(self, request: Any, context: Any) -> collected.ExportTraceServiceResponse:  # noqa: N802
        self.exports += 1
        return collected.ExportTraceServiceResponse()


@pytest.mark.parametrize("variable", [None, "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"])
@pytest.mark.parametrize("scheme", ["http://", ""])
def test_traces_go_to_this_machine_directly(
    variable: str | None, scheme: str, environment_proxy: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, collector = grpc.server(ThreadPoolExecutor(2)), Collector()
    collecting.add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    endpoint: str | None = f"{scheme}127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    if not scheme:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_INSECURE", "true")
    if variable is not None:
        monkeypatch.setenv(variable, str(endpoint))
        endpoint = None
    tracing = Tracing(endpoint)
    tracing(
        CallRecord(
            method="Parse", service="s", code="OK", number=0, seconds=0.1, ended_ns=1, request_id="r", client="c"
        )
    )
    tracing.close()
    server.stop(None).wait()
    assert collector.exports == 1
    assert environment_proxy.received == b""


def test_health_never_uses_a_proxy(environment_proxy: Relay, tiny_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of another machine, which the address of this machine on its network stands for here."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no network")
        address = f"{probe.getsockname()[0]}:1"
    assert not is_local_target(address)
    result = CliRunner().invoke(app, ["health", address])
    assert "Connection refused" in result.output
    assert result.exit_code == 1
    assert environment_proxy.received == b""
    with Client(address, retries=0) as client, pytest.raises(Unavailable):
        client.health()
    assert environment_proxy.received.startswith(b"CONNECT"), "the proxy works"


def test_calls_print_nothing(tiny_server: str, environment_proxy: Relay, capfd: pytest.CaptureFixture[str]) -> None:
    """gRPC writes to standard error what it does not like about the options of a channel."""
    with Client(tiny_server) as client:
        client.health()
    assert capfd.readouterr() == ("", "")


def test_client_in_test_reaches_the_proxy(make_relay: Callable[..., Relay], tiny_server: str) -> None:
    """The proxy of these tests records texts and forwards calls."""
    relay = make_relay(tiny_server)
    with Client(relay.address) as client:
        assert client.parse("play a song").intent.name == "music"
    assert b"play a song" in relay.received

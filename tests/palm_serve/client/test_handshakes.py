"""What a client tells when no connection can be opened: the reason of the handshake, with real certificates."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import pytest
from typer.testing import CliRunner

from palm_serve.cli import app
from palm_serve.client import Client, tls
from palm_serve.client.failures import connection_failure
from palm_serve.errors import Unavailable

Pair = tuple[Path, Path]
MakeCertificate = Callable[..., Pair]


@contextmanager
def tls_server(pair: Pair | None, client_ca: Path | None = None) -> Iterator[str]:
    """Run a server without methods and yield its address. None: without TLS."""
    server = grpc.server(ThreadPoolExecutor(2))
    if pair is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        certificate, key = (path.read_bytes() for path in pair)
        authority = None if client_ca is None else client_ca.read_bytes()
        credentials = grpc.ssl_server_credentials([(key, certificate)], authority, client_ca is not None)
        port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def reason(target: str, *files: Path | None, plain: bool = False) -> str:
    """Return the message of a call that gets no connection, from the client and from the command."""
    credentials = None if plain else tls(*files)
    with (
        Client(target, credentials=credentials, retries=0, timeout_s=60) as client,
        pytest.raises(Unavailable) as caught,
    ):
        client.parse("hello")
    message = str(caught.value)
    options = [] if plain else ["--tls"]
    for option, file in zip(("--tls-ca", "--tls-cert", "--tls-key"), files, strict=False):
        options += [option, str(file)]
    result = CliRunner().invoke(app, ["health", target, "--timeout", "60", *options])
    assert result.exit_code == 1
    assert result.output == f"palm-serve: {message}\n"
    prefix = f"no answer from a PALM server at {target}: "
    assert message.startswith(prefix)
    return message.removeprefix(prefix)


@pytest.mark.parametrize(
    ("begin_s", "end_s", "told"),
    [(-2 * 86400, -86400, "certificate has expired"), (86400, 2 * 86400, "certificate is not yet valid")],
)
def test_certificate_outside_its_validity_is_named(
    make_certificate: MakeCertificate, begin_s: float, end_s: float, told: str
) -> None:
    pair = make_certificate("served", begin_s, end_s)
    with tls_server(pair) as target:
        assert reason(target, pair[0]) == f"TLS handshake failed: certificate verify failed: {told}"


def test_untrusted_certificate_is_named(make_certificate: MakeCertificate) -> None:
    with tls_server(make_certificate("served")) as target:
        told = reason(target, make_certificate("other")[0])
        assert told.startswith("TLS handshake failed: certificate verify failed: ")
        assert not told.endswith("OK")
        assert reason(target).startswith("TLS handshake failed: certificate verify failed: ")


def test_certificate_of_another_name_is_named(make_certificate: MakeCertificate) -> None:
    pair = make_certificate("served", names="DNS:palm.example")
    with tls_server(pair) as target:
        told = reason(target, pair[0])
    assert told == "TLS handshake failed: the server's certificate is not valid for this host name"


def test_server_without_tls_is_named(make_certificate: MakeCertificate) -> None:
    with tls_server(None) as target:
        assert reason(target, make_certificate("any")[0]) == "TLS handshake failed: the server does not speak TLS"


def test_closed_connections_name_what_may_be_missing(make_certificate: MakeCertificate) -> None:
    pair, client = make_certificate("served"), make_certificate("client")
    with ExitStack() as stack:
        target = stack.enter_context(tls_server(pair, client[0]))
        assert (
            reason(target, pair[0])
            == "Socket closed. Does the server require a client certificate, or has it reached its limit of connections?"
        )
        assert (
            reason(target, plain=True)
            == "Socket closed. Does the server require TLS, or has it reached its limit of connections?"
        )
        with (
            Client(target, credentials=tls(pair[0], *client)) as accepted,
            pytest.raises(Exception, match="UNIMPLEMENTED"),
        ):
            accepted.parse("hello")


def test_unknown_host_is_named() -> None:
    with Client("nosuch.invalid:1", retries=0) as client, pytest.raises(Unavailable, match=r"nosuch\.invalid"):
        client.parse("hello")


@pytest.mark.parametrize(
    ("details", "told"),
    [
        (
            "failed to connect to all addresses; last error: UNKNOWN: unix:/run/p q.sock: No such file or directory",
            "No such file or directory",
        ),
        (
            "failed to connect to all addresses; last error: UNKNOWN: ipv6:%5B::1%5D:1: Failed to connect to remote host: Connection refused",
            "Connection refused",
        ),
        (
            "failed to connect to all addresses; last error: UNKNOWN: ipv4:1.2.3.4:1: OK",
            "no connection, and gRPC gives no reason",
        ),
        ("the server is loading its models. Try again later.", "the server is loading its models. Try again later."),
        ("", "no details"),
    ],
)
def test_connection_failure_keeps_the_reason(details: str, told: str) -> None:
    assert connection_failure(details, False) == told

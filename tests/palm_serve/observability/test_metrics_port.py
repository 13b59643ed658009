"""The metrics port: access control, and the metrics of certificates and tokens when they change."""

import contextlib
import hashlib
import http.client
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Gauge
from typer.testing import CliRunner

from palm_serve.cli import app
from palm_serve.client import Client, tls
from palm_serve.observability import exposition
from palm_serve.rpc.transport.x509 import expiry

Process = Any  # of conftest.py, which cannot be imported by name
KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
NAMES = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="the openssl command makes certificates")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def certificate(folder: Path, name: str, days: int, *options: str) -> tuple[Path, Path]:
    """Create a self-signed certificate and its key."""
    made = folder / f"{name}.pem", folder / f"{name}.key"
    command = [
        "openssl",
        "req",
        "-x509",
        *KEY,
        "-keyout",
        made[1],
        "-out",
        made[0],
        "-days",
        str(days),
        *NAMES,
        *options,
    ]
    subprocess.run(command, check=True, capture_output=True)
    return made


def entry(name: str, token: str, scope: str) -> str:
    return f'[tokens.{name}]\nsha256 = "{hashlib.sha256(token.encode()).hexdigest()}"\nscopes = ["{scope}"]\n'


def scrape(
    port: int, authority: Path | None = None, token: str | None = None, host: str = "127.0.0.1"
) -> tuple[int, str]:
    """Return the status and the text of a scrape."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    if authority is None:
        connection = http.client.HTTPConnection(host, port, timeout=10)
    else:
        context = ssl.create_default_context(cafile=str(authority))
        connection = http.client.HTTPSConnection(host, port, timeout=10, context=context)
    with contextlib.closing(connection):
        connection.request("GET", "/metrics", headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def value(text: str, series: str) -> float:
    found = re.search(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
    assert found, f"no {series} in {text}"
    return float(found[1])


def enddate(path: Path) -> float:
    """Return the expiry that openssl prints."""
    told = subprocess.run(
        ["openssl", "x509", "-enddate", "-noout", "-in", path], check=True, capture_output=True, text=True
    )
    return ssl.cert_time_to_seconds(told.stdout.strip().removeprefix("notAfter="))


@needs_openssl
def test_changed_certificates_and_tokens_are_reported(
    start_server: Callable[..., Process], tiny_bundle: Path, tmp_path: Path
) -> None:
    """The metrics show the current files, although no call is made."""
    first, second = (certificate(tmp_path, f"made{days}", days) for days in (20, 50))
    served = tmp_path / "tls.pem", tmp_path / "tls.key"
    tokens = tmp_path / "tokens.toml"

    def put(pair: tuple[Path, Path]) -> None:
        for source, place in zip(pair, served, strict=True):
            shutil.copyfile(source, place.with_suffix(".new"))
            os.replace(place.with_suffix(".new"), place)

    put(first)
    tokens.write_text(entry("prometheus", "scraper", "metrics") + entry("web", "caller", "parse"))
    port, began = free_port(), time.time()
    process = start_server(
        *(tiny_bundle, "--tls-cert", served[0], "--tls-key", served[1], "--tokens", tokens),
        *("--metrics-port", port, "--metrics-needs-token", "--metrics-tls", "--drain-grace", "0"),
    )
    process.wait_for("ready;")
    told = scrape(port, first[0], "scraper")[1]
    assert value(told, "palm_certificate_expiry_timestamp_seconds") == enddate(first[0])
    for file in ("certificate", "tokens"):
        assert began - 1 <= value(told, f'palm_reload_success_timestamp_seconds{{file="{file}"}}') <= time.time()
        assert value(told, f'palm_reload_failure_timestamp_seconds{{file="{file}"}}') == 0
    assert scrape(port, first[0])[0] == 401
    assert "asks for a token" in scrape(port, first[0], None)[1]
    assert scrape(port, first[0], "caller")[0] == 403
    with pytest.raises(OSError):  # noqa: PT011 - reset, or nothing at all, as the peer's system has it
        scrape(port, None, "scraper")

    put(second)
    told = scrape(port, second[0], "scraper")[1]
    assert value(told, "palm_certificate_expiry_timestamp_seconds") == enddate(second[0])
    reloaded = value(told, 'palm_reload_success_timestamp_seconds{file="certificate"}')
    assert reloaded > began
    served[1].write_text("broken")
    tokens.write_text("[broken")
    told = scrape(port, second[0], "scraper")[1]
    for file in ("certificate", "tokens"):
        failed = value(told, f'palm_reload_failure_timestamp_seconds{{file="{file}"}}')
        assert failed > value(told, f'palm_reload_success_timestamp_seconds{{file="{file}"}}') > 0
    assert value(told, 'palm_reload_success_timestamp_seconds{file="certificate"}') == reloaded
    assert value(told, "palm_certificate_expiry_timestamp_seconds") == enddate(second[0])
    with Client(process.target(), credentials=tls(second[0]), token="caller") as client:
        assert client.parse("play a song").intent.name == "music", (
            "what was good still serves, and gRPC has heard of it"
        )

    tokens.write_text(entry("web", "caller", "parse"))
    assert scrape(port, second[0], "scraper")[0] == 401, "revoked"
    process.process.send_signal(signal.SIGTERM)
    assert process.finish() == 0
    assert "Traceback" not in "".join(process.errors)


@needs_openssl
@pytest.mark.parametrize(("days", "form"), [(2, "UTCTime"), (36500, "GeneralizedTime")])
def test_expiry_of_certificates(tmp_path: Path, days: int, form: str) -> None:
    """Both date formats are read, and the earliest date of a chain is returned."""
    leaf, _ = certificate(tmp_path, "leaf", days)
    dump = subprocess.run(["openssl", "asn1parse", "-in", leaf], check=True, capture_output=True, text=True).stdout
    assert form.upper() in dump
    assert expiry(leaf.read_bytes()) == enddate(leaf)
    later, _ = certificate(tmp_path, "later", days + 7)
    assert expiry(later.read_bytes() + leaf.read_bytes()) == enddate(leaf)


def test_version_info_is_reported(start_server: Callable[..., Process], tiny_bundle: Path) -> None:
    port, began = free_port(), time.time()
    process = start_server(tiny_bundle, "--metrics-port", port)
    with Client(process.target()) as client:
        (model,) = client.models()
    told = scrape(port)[1]
    labels = f'model="tiny",version="{model.version[:12]}"'
    info = f'palm_version_info{{digest="{model.version}",model="tiny",variant="plain",version="{model.version[:12]}"}}'
    assert value(told, info) == 1
    assert value(told, f"palm_version_created_timestamp_seconds{{{labels}}}") == 1767225600  # 2026-01-01
    assert began - 1 <= value(told, f"palm_version_loaded_timestamp_seconds{{{labels}}}") <= time.time()
    assert "palm_certificate_expiry_timestamp_seconds" not in told, "there is none"


def test_metrics_host_is_used(start_server: Callable[..., Process], tiny_bundle: Path) -> None:
    port = free_port()
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.2", port))
        except OSError:
            pytest.skip("this machine has one loopback address only")
    start_server(tiny_bundle, "--metrics-port", port, "--metrics-host", "127.0.0.2").wait_for("ready;")
    assert scrape(port, host="127.0.0.2")[0] == 200
    with pytest.raises(ConnectionRefusedError):
        scrape(port)


@pytest.fixture
def exposed() -> Iterator[Callable[..., int]]:
    """Return `exposed(**options)`, which serves a registry with one gauge and returns the port."""
    registry = CollectorRegistry()
    Gauge("here", "Is.", registry=registry).set(1)

    def expose(**options: Any) -> int:
        port = free_port()
        exposition.expose(registry, "127.0.0.1", port, **options)
        return port

    return expose


@pytest.mark.slow
@needs_openssl
@pytest.mark.parametrize("secure", [False, True])
def test_silent_peers_do_not_block_scrapes(
    exposed: Callable[..., int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, secure: bool
) -> None:
    """One silent peer blocks no scrape, and too many block only until their timeout."""
    monkeypatch.setattr(exposition, "_TIMEOUT_S", 3)
    authority, key = certificate(tmp_path, "served", 2)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority, key)
    port = exposed(context=lambda: context) if secure else exposed()
    trusted = authority if secure else None
    with socket.create_connection(("127.0.0.1", port)):
        assert scrape(port, trusted)[0] == 200
    with contextlib.ExitStack() as open_:
        for _ in range(exposition._SCRAPES):
            open_.enter_context(socket.create_connection(("127.0.0.1", port)))
        with pytest.raises(OSError):  # noqa: PT011 - closed, or reset
            scrape(port, trusted)
        end = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError):
                assert scrape(port, trusted)[0] == 200
                break
            assert time.monotonic() < end
            time.sleep(0.1)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (("--metrics-tls",), "metrics_tls requires tls_cert and tls_key"),
        (("--metrics-needs-token",), "metrics_needs_token requires tokens"),
        (("--metrics-host", "nowhere.invalid", "--metrics-port", "9"), "cannot serve metrics on nowhere.invalid:9"),
    ],
)
def test_invalid_metrics_options_end_the_start(
    start_server: Callable[..., Process], tiny_bundle: Path, options: tuple[str, ...], match: str
) -> None:
    process = start_server(tiny_bundle, *options)
    assert process.finish() == 2
    (line,) = [line for line in process.errors if "warning" not in line]
    assert match in line


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ((), None),
        (("--metrics-host", "0.0.0.0"), "metrics are open: anyone can read the names of the models"),
        (("--metrics-host", "0.0.0.0", "--metrics-needs-token"), "the token can be intercepted"),
        (("--metrics-host", "0.0.0.0", "--metrics-needs-token", "--metrics-tls"), None),
        (("--metrics-host", "0.0.0.0", "--metrics-tls"), "metrics are open"),
        (("--metrics-host", "0.0.0.0", "--metrics-tls", "--tls-client-ca", "ca"), None),
        (("--host", "0.0.0.0"), "metrics are open"),
        (("--host", "0.0.0.0", "--metrics-host", "127.0.0.1"), None),
    ],
)
def test_exposed_metrics_print_warning(tmp_path: Path, options: tuple[str, ...], match: str | None) -> None:
    """The files do not exist, so the command exits."""
    files = ("--tls-cert", "cert", "--tls-key", "key", "--tokens", str(tmp_path / "none"))
    done = CliRunner().invoke(app, ["run", str(tmp_path / "none"), "--metrics-port", "9", *files, *options])
    assert done.exit_code == 2
    warnings = [line for line in done.output.splitlines() if "warning" in line]
    assert [match in line for line in warnings] == ([True] if match else [])

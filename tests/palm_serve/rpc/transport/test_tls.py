"""TLS and mTLS with real certificates of the openssl command, and their replacement while the server runs."""

import asyncio
import logging
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from palm_serve.cli import app
from palm_serve.client import AsyncClient, Client, tls
from palm_serve.config import TlsFiles
from palm_serve.errors import TlsError, Unauthenticated, Unavailable
from palm_serve.rpc.transport.tls import Certificates

Pair = tuple[Path, Path]
KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
NAMES = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    """Create self-signed certificates with their keys. Each is its own authority."""
    if shutil.which("openssl") is None:
        pytest.skip("the openssl command is not installed")
    folder = tmp_path_factory.mktemp("certificates")
    made = {name: (folder / f"{name}.pem", folder / f"{name}.key") for name in ("first", "second", "client")}
    for certificate, key in made.values():
        command = ["openssl", "req", "-x509", *KEY, "-keyout", key, "-out", certificate, "-days", "30", *NAMES]
        subprocess.run(command, check=True, capture_output=True)
    return made


@pytest.fixture
def served(pairs: dict[str, Pair], tmp_path: Path) -> Pair:
    """Copy the first pair to files that the test may replace."""
    place = (tmp_path / "tls.crt", tmp_path / "tls.key")
    put(pairs["first"], place)
    return place


def put(pair: Pair, place: Pair) -> None:
    """Replace each file atomically by a rename."""
    for source, target in zip(pair, place, strict=True):
        fresh = target.with_suffix(".new")
        shutil.copyfile(source, fresh)
        os.replace(fresh, target)


def intent(target: str, *files: Path | None) -> str:
    """Return the intent that a new connection with the authority files[0] receives."""
    with Client(target, credentials=tls(*files), timeout_s=10, retries=0) as client:
        return client.parse("play a song").intent.name


class TestCertificates:
    def test_unchanged_files_are_not_renewed(self, served: Pair) -> None:
        certificates = Certificates(TlsFiles(*served))
        assert certificates.renewed() is None

    def test_equal_contents_are_not_renewed(self, served: Pair, pairs: dict[str, Pair]) -> None:
        certificates = Certificates(TlsFiles(*served))
        put(pairs["first"], served)
        assert certificates.renewed() is None

    def test_new_certificate_is_renewed_once(self, served: Pair, pairs: dict[str, Pair]) -> None:
        certificates = Certificates(TlsFiles(*served))
        put(pairs["second"], served)
        assert certificates.renewed() is not None
        assert certificates.renewed() is None

    def test_mismatched_pair_keeps_former_certificate(
        self, served: Pair, pairs: dict[str, Pair], caplog: pytest.LogCaptureFixture
    ) -> None:
        certificates = Certificates(TlsFiles(*served))
        put((pairs["second"][0], pairs["first"][1]), served)
        with caplog.at_level(logging.ERROR, "palm_serve"):
            assert certificates.renewed() is None
            assert certificates.renewed() is None
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        assert "stays as it was" in caplog.text
        put(pairs["second"], served)
        assert certificates.renewed() is not None

    def test_missing_files_keep_former_certificate(self, served: Pair, pairs: dict[str, Pair]) -> None:
        certificates = Certificates(TlsFiles(*served))
        served[0].unlink()
        assert certificates.renewed() is None
        put(pairs["second"], served)
        assert certificates.renewed() is not None

    def test_new_client_authority_is_used(self, served: Pair, pairs: dict[str, Pair], tmp_path: Path) -> None:
        authority = tmp_path / "ca.pem"
        shutil.copyfile(pairs["client"][0], authority)
        certificates = Certificates(TlsFiles(*served, authority))
        shutil.copyfile(pairs["second"][0], authority)
        assert certificates.renewed() is not None

    def test_invalid_certificates_raise_tls_error(self, served: Pair, pairs: dict[str, Pair], tmp_path: Path) -> None:
        certificate, key = served
        nowhere, text, locked = tmp_path / "nowhere", tmp_path / "text", tmp_path / "locked"
        text.write_text("no certificate")
        command = ["openssl", "ec", "-aes128", "-passout", "pass:secret", "-in", key, "-out", locked]
        subprocess.run(command, check=True, capture_output=True)
        for files, told in (
            (TlsFiles(nowhere, key), "nowhere cannot be read: No such file"),
            (
                TlsFiles(certificate, pairs["second"][1]),
                r"must be a certificate and its key in PEM, got KEY_VALUES_MISMATCH",
            ),
            (TlsFiles(text, key), "text must hold a certificate in PEM, got other contents"),
            (TlsFiles(certificate, locked), "remove the password of the key"),
            (TlsFiles(certificate, key, text), "text must hold certificates in PEM"),
        ):
            with pytest.raises(TlsError, match=told):
                Certificates(files)


DAY_S = 86400
MakeCertificate = Callable[..., Pair]


class TestValidity:
    """Certificates that clients refuse, or soon will."""

    @pytest.mark.parametrize(
        ("begin_s", "end_s", "told"),
        [
            (-2 * DAY_S, -DAY_S, "expired at"),
            (DAY_S, 20 * DAY_S, "is not valid before"),
            (-DAY_S, 6.9 * DAY_S, "in less than 7 days"),
            (-DAY_S, 7.1 * DAY_S, ""),
        ],
    )
    def test_validity_is_checked_at_the_start(
        self,
        make_certificate: MakeCertificate,
        caplog: pytest.LogCaptureFixture,
        begin_s: float,
        end_s: float,
        told: str,
    ) -> None:
        pair = make_certificate("served", begin_s, end_s)
        Certificates(TlsFiles(*pair)).look()
        assert len(caplog.records) == bool(told)
        assert told in caplog.text
        if told:
            assert f"the certificate {pair[0]} {told}" in caplog.text or "expires at" in caplog.text

    def test_validity_is_checked_at_a_reload(
        self, make_certificate: MakeCertificate, served: Pair, caplog: pytest.LogCaptureFixture
    ) -> None:
        certificates = Certificates(TlsFiles(*served))
        assert caplog.text == ""
        put(make_certificate("old", -2 * DAY_S, -DAY_S), served)
        certificates.look()
        assert "expired at" in caplog.text
        assert certificates.renewed() is not None
        certificates.look()
        assert len(caplog.records) == 1

    def test_validity_is_checked_while_serving(
        self, served: Pair, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each stage of a certificate that nobody replaces is told once."""
        certificates = Certificates(TlsFiles(*served))
        now = time.time()
        for days in (20, 24, 25, 31, 32):
            monkeypatch.setattr(time, "time", lambda days=days: now + days * DAY_S)
            certificates.look()
        assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
        assert "in less than 7 days" in caplog.records[0].getMessage()
        assert "expired at" in caplog.records[1].getMessage()

    def test_expired_client_authorities_are_told(
        self, make_certificate: MakeCertificate, served: Pair, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        old, good = make_certificate("old", -2 * DAY_S, -DAY_S)[0], make_certificate("good")[0]
        Certificates(TlsFiles(*served, old))
        assert "all authorities of client certificates have expired" in caplog.text
        caplog.clear()
        bundle = tmp_path / "bundle.pem"
        bundle.write_bytes(old.read_bytes() + good.read_bytes())
        Certificates(TlsFiles(*served, bundle))
        assert caplog.text == ""

    def test_server_with_expired_certificate_prints_warning(
        self, make_certificate: MakeCertificate, tiny_bundle: Path, start_server: Callable[..., Any]
    ) -> None:
        pair = make_certificate("served", -2 * DAY_S, -DAY_S)
        process = start_server(tiny_bundle, "--tls-cert", pair[0], "--tls-key", pair[1])
        target = process.target()
        with pytest.raises(Unavailable, match="certificate has expired"):
            intent(target, pair[0])
        process.process.terminate()
        process.finish()
        assert len(process.errors) == 1
        assert f"the certificate {pair[0]} expired at" in process.errors[0]


def test_server_serves_over_tls(served: Pair, tiny_bundle: Path, start_server: Callable[..., Any]) -> None:
    process = start_server(tiny_bundle, "--tls-cert", served[0], "--tls-key", served[1])
    target = process.target()
    assert intent(target, served[0]) == "music"
    with Client(target, retries=0, timeout_s=10) as plain, pytest.raises(Unavailable):
        plain.parse("play a song")

    async def ask() -> str:
        async with AsyncClient(target, credentials=tls(served[0])) as client:
            return (await client.parse("play a song")).intent.name

    assert asyncio.run(ask()) == "music"
    called = CliRunner().invoke(app, ["call", "play a song", "--target", target, "--tls-ca", str(served[0])])
    assert "music" in called.stdout


def test_replaced_certificate_is_used_while_serving(
    served: Pair, pairs: dict[str, Pair], tiny_bundle: Path, start_server: Callable[..., Any]
) -> None:
    process = start_server(tiny_bundle, "--tls-cert", served[0], "--tls-key", served[1])
    target = process.target()
    first, second = pairs["first"][0], pairs["second"][0]
    with Client(target, credentials=tls(first)) as early:
        assert early.parse("play a song").intent.name == "music"
        put(pairs["second"], served)
        assert intent(target, second) == "music"
        with pytest.raises(Unavailable):
            intent(target, first)
        assert early.parse("play a song").intent.name == "music"  # its connection is as it was
        served[1].write_text("broken")
        assert intent(target, second) == "music"


def test_client_certificates_are_required(
    served: Pair, pairs: dict[str, Pair], tiny_bundle: Path, start_server: Callable[..., Any]
) -> None:
    authority = pairs["client"][0]
    target = start_server(
        tiny_bundle, "--tls-cert", served[0], "--tls-key", served[1], "--tls-client-ca", authority
    ).target()
    assert intent(target, served[0], *pairs["client"]) == "music"
    for files in ((served[0],), (served[0], *pairs["second"])):
        with pytest.raises(Unavailable):
            intent(target, *files)


def test_certificate_replaces_a_token(
    served: Pair, pairs: dict[str, Pair], tiny_bundle: Path, start_server: Callable[..., Any], tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens.toml"
    tokens.write_text('[tokens.backend]\ncertificate = "localhost"\nscopes = ["parse"]\n')
    options = ("--tls-cert", served[0], "--tls-key", served[1], "--tls-client-ca", pairs["client"][0])
    target = start_server(tiny_bundle, *options, "--tokens", tokens).target()
    assert intent(target, served[0], *pairs["client"]) == "music"
    tokens.write_text('[tokens.backend]\ncertificate = "other"\nscopes = ["parse"]\n')
    with pytest.raises(Unauthenticated, match="asks for a token"):
        intent(target, served[0], *pairs["client"])


def test_invalid_files_end_the_start(
    served: Pair, pairs: dict[str, Pair], tiny_bundle: Path, start_server: Callable[..., Any]
) -> None:
    process = start_server(tiny_bundle, "--tls-cert", served[0], "--tls-key", pairs["second"][1])
    assert process.finish() == 2
    [line] = process.errors
    assert "must be a certificate and its key" in line


@pytest.mark.parametrize("options", [("--tls-cert", "a"), ("--tls-key", "a"), ("--tls-client-ca", "a")])
def test_incomplete_tls_options_are_refused(options: tuple[str, str], tiny_bundle: Path) -> None:
    result = CliRunner().invoke(app, ["run", str(tiny_bundle), *options], env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert "tls_cert and tls_key must be set together" in result.stderr


def test_client_certificate_without_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TlsError, match="certificate and key must be given together"):
        tls(None, tmp_path / "certificate")
    with pytest.raises(TlsError, match="nowhere cannot be read"):
        tls(tmp_path / "nowhere")


def test_exposed_server_without_tls_prints_warning(
    served: Pair, tmp_path: Path, start_server: Callable[..., Any]
) -> None:
    """The bundle does not exist, so the servers exit."""
    open_ = start_server(tmp_path / "none", "--host", "0.0.0.0")
    safe = start_server(tmp_path / "none", "--host", "0.0.0.0", "--tls-cert", served[0], "--tls-key", served[1])
    assert (open_.finish(), safe.finish()) == (2, 2)
    assert (
        "warning: 0.0.0.0 is reachable from other machines, and the server has neither TLS nor tokens"
        in open_.errors[0]
    )
    assert len(safe.errors) == 1

"""Text files of users: a byte order mark is ignored, and what cannot be read is one message and exit code 2."""

import codecs
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from palm_serve.cli import app
from palm_serve.cli.bench import _read_texts
from palm_serve.cli.settings import resolve
from palm_serve.client import Client, read_token, tls
from palm_serve.errors import PalmServeError
from palm_serve.registry.model_directory import read_traffic
from palm_serve.rpc.access.tokens import Tokens
from palm_serve.system.files import read_text

BOM = codecs.BOM_UTF8
TOKENS = f'[tokens.web]\nsha256 = "{hashlib.sha256(b"t").hexdigest()}"\nscopes = ["parse"]\n'
CALL = ("call", "hello", "--target", "127.0.0.1:1")
MakeCertificate = Callable[..., tuple[Path, Path]]


def commands(file: Path, bundle: Path, pair: tuple[Path, Path]) -> dict[str, tuple[object, ...]]:
    """Return commands that read the file, by what it is to them."""
    certificate, key = pair
    run = ("run", bundle, "--port", "0")
    return {
        "tokens": (*run, "--tokens", file),
        "config": ("run", "--config", file),
        "certificate": (*run, "--tls-cert", file, "--tls-key", key),
        "key": (*run, "--tls-cert", certificate, "--tls-key", file),
        "client_ca": (*run, "--tls-cert", certificate, "--tls-key", key, "--tls-client-ca", file),
        "ca": (*CALL, "--tls-ca", file),
        "own certificate": (*CALL, "--tls-cert", file, "--tls-key", key),
        "own key": (*CALL, "--tls-cert", certificate, "--tls-key", file),
        "token": (*CALL, "--token-file", file),
        "health token": ("health", "127.0.0.1:1", "--token-file", file),
        "texts": ("bench", "127.0.0.1:1", "--texts", file),
    }


NAMES = tuple(commands(Path(), Path(), (Path(), Path())))


def told(arguments: tuple[object, ...]) -> str:
    """Run a command that must fail with one message and exit code 2. Return the message."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "300"})
    assert result.exit_code == 2, result.output
    assert len(result.output.splitlines()) == 1, result.output
    return result.output


@pytest.mark.parametrize("name", NAMES)
def test_unreadable_files_are_one_message(
    name: str, tmp_path: Path, tiny_bundle: Path, make_certificate: MakeCertificate
) -> None:
    pair = make_certificate("good")
    folder, missing, encoded = tmp_path / "folder", tmp_path / "missing", tmp_path / "encoded"
    folder.mkdir()
    assert f"{folder} cannot be read: Is a directory" in told(commands(folder, tiny_bundle, pair)[name])
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)  # without a writer, which a plain read would wait for
    assert f"{pipe} must be a regular file, got a pipe or device" in told(commands(pipe, tiny_bundle, pair)[name])
    assert f"{missing} cannot be read: No such file" in told(commands(missing, tiny_bundle, pair)[name])
    encoded.write_text("[tokens]\n", encoding="utf-16")
    assert f"{encoded}:1: must be UTF-8, got UTF-16" in told(commands(encoded, tiny_bundle, pair)[name])


@pytest.mark.parametrize("name", ["tokens", "config", "token", "health token", "texts"])
def test_bytes_that_are_not_utf8_are_named_with_their_line(
    name: str, tmp_path: Path, tiny_bundle: Path, make_certificate: MakeCertificate
) -> None:
    file = tmp_path / "file"
    file.write_bytes(BOM + b"# fine\n# caf\xe9\n")
    message = told(commands(file, tiny_bundle, make_certificate("good"))[name])
    assert f"{file}:2: must be UTF-8, got the byte 0xe9" in message


@pytest.mark.parametrize("name", [name for name in NAMES if name != "config"])
@pytest.mark.parametrize("content", [b"", BOM])
def test_empty_files_are_one_message(
    name: str, content: bytes, tmp_path: Path, tiny_bundle: Path, make_certificate: MakeCertificate
) -> None:
    file = tmp_path / "empty"
    file.write_bytes(content)
    assert str(file) in told(commands(file, tiny_bundle, make_certificate("good"))[name])


@pytest.mark.parametrize("content", ["a = " + "[" * 20_000, "a = " + "9" * 5000, "a = 2027-13-01", "a\0 = 1"])
@pytest.mark.parametrize("name", ["tokens", "config"])
def test_broken_toml_is_one_message(
    name: str, content: str, tmp_path: Path, tiny_bundle: Path, make_certificate: MakeCertificate
) -> None:
    file = tmp_path / "file.toml"
    file.write_text(content)
    assert "must be TOML" in told(commands(file, tiny_bundle, make_certificate("good"))[name])


@pytest.mark.parametrize("marks", [BOM, BOM * 3])
def test_byte_order_marks_are_ignored(tmp_path: Path, marks: bytes) -> None:
    file = tmp_path / "file"

    def write(text: str) -> Path:
        file.write_bytes(marks + text.encode())
        return file

    assert Tokens(write(TOKENS)).check([("authorization", "Bearer t")], "parse") == "web"  # type: ignore[arg-type]
    assert resolve({}, write("max_queue = 7\n"), {}).options.max_queue == 7
    assert read_token(write("palm_x\n")) == "palm_x"
    assert _read_texts(write("play a song\nhello\n")) == ("play a song", "hello")
    assert read_traffic(write("canary = 0.25\n")).canary == 0.25


def test_certificates_with_byte_order_marks_are_used(
    tmp_path: Path, tiny_bundle: Path, make_certificate: MakeCertificate, start_server: Callable[..., Any]
) -> None:
    """With Windows line ends, too."""
    files = [*make_certificate("served"), *make_certificate("client")]
    for path in files:
        path.write_bytes(BOM + path.read_bytes().replace(b"\n", b"\r\n"))
    certificate, key, own, own_key = files
    process = start_server(tiny_bundle, "--tls-cert", certificate, "--tls-key", key, "--tls-client-ca", own)
    with Client(process.target(), credentials=tls(certificate, own, own_key)) as client:
        assert client.parse("play a song").intent.name == "music"
    assert process.errors == []


def test_comments_of_certificates_may_have_any_encoding(tmp_path: Path, make_certificate: MakeCertificate) -> None:
    """As the names of authorities in bundles of distributions."""
    certificate, key = make_certificate("own")
    certificate.write_bytes(b"# Autorit\xe9\n" + certificate.read_bytes())
    assert tls(certificate, certificate, key) is not None


def test_name_with_nul_is_one_message() -> None:
    with pytest.raises(PalmServeError, match="cannot be read"):
        read_text(Path("a\0b"), PalmServeError)

"""`palm-serve health` with real servers. A container's health check uses its exit code only."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from palm_serve.cli import app
from palm_serve.cli.health import _local_address
from palm_serve.config import ServeOptions
from palm_serve.rpc.access.tokens import new_token

Process = Any  # of conftest.py, which cannot be imported by name
ROOT = Path(__file__).parents[3]


def health(*arguments: object, **environment: str) -> tuple[int, str]:
    """Run the command and return its exit code and output."""
    result = CliRunner().invoke(
        app, ["health", *map(str, arguments)], env={"COLUMNS": "200", "PALM_TOKEN": "", **environment}
    )
    return result.exit_code, result.output


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_health_as_a_process(process_limit_s: float, tiny_server: str) -> None:
    command = [sys.executable, "-m", "palm_serve.cli", "health", tiny_server]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=process_limit_s)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{tiny_server} serves\n", "")


def test_health_of_models(tiny_server: str) -> None:
    assert health(tiny_server, "--model", "tiny") == (0, f"tiny of {tiny_server} serves\n")
    code, told = health(tiny_server, "--model", "nope")
    assert code == 2
    assert "no model 'nope'" in told


def test_health_of_unready_servers_exits_with_1(
    start_server: Callable[..., Process], tiny_bundle: Path, tmp_path: Path
) -> None:
    """Covers a server without a model, a draining one and a stopped one."""
    (tmp_path / "models").mkdir()
    empty = start_server("--watch", tmp_path / "models")
    target = empty.target()
    assert health(target) == (1, f"{target} does not serve\n")
    draining = start_server(tiny_bundle, "--drain-grace", "20")
    target = draining.target()
    assert health(target)[0] == 0
    draining.process.send_signal(signal.SIGTERM)
    draining.wait_for("draining")
    assert health(target) == (1, f"{target} does not serve\n")
    draining.process.kill()
    draining.finish()
    code, told = health(target)
    assert code == 1
    assert told == f"palm-serve: no answer from a PALM server at {target}: Connection refused\n"


def test_health_without_answer_exits_with_1() -> None:
    """The port accepts connections and sends nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        code, told = health(f"127.0.0.1:{silent.getsockname()[1]}", "--timeout", "0.5")
    assert code == 1
    assert "no answer" in told


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("--timeout", "soon"), "Invalid value for '--timeout'"),
        (("127.0.0.1:1", "--tls-cert", "here"), "the client's certificate and key must be given together"),
        (("127.0.0.1:1", "--token-file", "nowhere"), "nowhere cannot be read"),
        (("127.0.0.1:1", "more"), "unexpected extra argument"),
    ],
)
def test_health_with_wrong_usage_exits_with_2(arguments: tuple[str, ...], match: str) -> None:
    code, told = health(*arguments)
    assert code == 2
    assert match in told


@pytest.mark.skipif(shutil.which("openssl") is None, reason="the openssl command makes the certificate")
def test_health_over_tls_with_token(start_server: Callable[..., Process], tiny_bundle: Path, tmp_path: Path) -> None:
    certificate, key, tokens, held = (tmp_path / name for name in ("cert.pem", "key.pem", "tokens.toml", "token"))
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc"]
    names = ["-days", "30", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, *names, "-out", certificate, "-keyout", key], check=True, capture_output=True)
    secret, digest = new_token()
    held.write_text(secret)
    tokens.write_text(f'[tokens.probe]\nsha256 = "{digest}"\nscopes = ["health"]\n')
    plain = free_port()
    server = start_server(
        *(tiny_bundle, "--tls-cert", certificate, "--tls-key", key, "--tokens", tokens, "--health-needs-token"),
        *("--health-port", plain),
    )
    target = server.target()
    assert health(target, "--tls-ca", certificate, "--token-file", held)[0] == 0
    code, told = health(target, "--tls-ca", certificate)
    assert code == 2
    assert "this server asks for a token" in told
    assert health(target)[0] == 1, "who speaks no TLS gets no answer"
    assert health(f"127.0.0.1:{plain}")[0] == 0


def test_health_check_of_the_image(start_server: Callable[..., Process], tiny_bundle: Path) -> None:
    """The command in the Dockerfile finds the server by the server's environment variables."""
    line = next(line for line in (ROOT / "Dockerfile").read_text().splitlines() if line.startswith("HEALTHCHECK"))
    program, *command = json.loads(line.partition(" CMD ")[2])
    assert program == "palm-serve"
    port, other = free_port(), free_port()
    variables = {"PALM_SERVE_PORT": str(port), "PALM_SERVE_HOST": "0.0.0.0"}
    server = start_server(tiny_bundle, "--port", port, env=variables)
    server.wait_for("ready;")
    answered = CliRunner().invoke(app, command, env=variables)
    assert (answered.exit_code, answered.output) == (0, f"127.0.0.1:{port} serves\n")
    answered = CliRunner().invoke(app, command, env={**variables, "PALM_SERVE_HEALTH_PORT": str(other)})
    assert answered.exit_code == 1, "nobody answers there"


@pytest.mark.parametrize(
    ("options", "address"),
    [
        ({}, "127.0.0.1:50051"),
        ({"host": "0.0.0.0", "port": 7}, "127.0.0.1:7"),
        ({"host": "::", "port": 7, "health_port": 8}, "[::1]:8"),
        ({"host": "palm.example"}, "palm.example:50051"),
        ({"host": "fd00::7"}, "[fd00::7]:50051"),
    ],
)
def test_local_address_of_options(options: dict[str, Any], address: str) -> None:
    assert _local_address(ServeOptions(**options)) == address

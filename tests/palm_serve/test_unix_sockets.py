"""A server on a Unix socket, as for the containers of one pod."""

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from palm_serve.cli import app
from palm_serve.cli.health import _local_address
from palm_serve.cli.settings import as_toml, resolve
from palm_serve.client import AsyncClient, Client, tls
from palm_serve.config import ServeOptions
from palm_serve.errors import ConfigError

Process = Any  # of conftest.py, which cannot be imported by name


@pytest.fixture
def path() -> Iterator[Path]:
    """A path for a socket. The folders of pytest are too long for one."""
    with tempfile.TemporaryDirectory(prefix="palm") as folder:
        yield Path(folder) / "x.sock"


def intent(target: str, **options: Any) -> str:
    with Client(target, timeout_s=60, **options) as client:
        return client.parse("play a song").intent.name


def stop(process: Process) -> None:
    process.process.send_signal(signal.SIGTERM)
    assert process.finish() == 0
    assert process.errors == []


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_server_serves_on_a_socket_file(start_server: Callable[..., Process], tiny_bundle: Path, path: Path) -> None:
    process = start_server(tiny_bundle, "--host", f"unix:{path}", "--drain-grace", "0")
    process.wait_for("ready;")
    assert process.wait_for(r"listening on (\S+)$") == f"unix:{path}"
    assert stat.S_IMODE(path.lstat().st_mode) == 0o600
    assert os.listdir(path.parent) == ["x.sock"]
    for target in (f"unix:{path}", f"unix://{path}"):
        assert intent(target, token="t") == "music"

    async def ask() -> str:
        async with AsyncClient(f"unix:{path}") as client:
            return (await client.parse("play a song")).intent.name

    assert asyncio.run(ask()) == "music"
    for arguments in (
        ("call", "play a song", "--target", f"unix:{path}"),
        ("health", f"unix:{path}"),
        ("bench", f"unix:{path}", "--duration", "0.2", "--warm-up", "0", "--concurrency", "2"),
    ):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
    stop(process)
    assert not path.exists()


def test_permissions_of_the_socket_are_set(start_server: Callable[..., Process], tiny_bundle: Path, path: Path) -> None:
    """Other users of the same pod may call, whatever the umask is."""
    process = start_server(tiny_bundle, "--host", f"unix:{path}", "--socket-mode", "666", umask=0o077)
    process.wait_for("ready;")
    assert stat.S_IMODE(path.lstat().st_mode) == 0o666
    if os.getuid() == 0:
        path.parent.chmod(0o755)
        script = (
            "import os, socket, sys; connection = socket.socket(socket.AF_UNIX); os.setegid(12345); os.seteuid(12345); "
            "connection.connect(sys.argv[1]); print('connected')"
        )
        command = [sys.executable, "-c", script, str(path)]
        assert subprocess.run(command, capture_output=True, text=True).stdout == "connected\n"
        path.chmod(0o600)
        assert "PermissionError" in subprocess.run(command, capture_output=True, text=True).stderr
    stop(process)


def test_socket_of_a_killed_server_is_replaced(
    start_server: Callable[..., Process], tiny_bundle: Path, path: Path
) -> None:
    first = start_server(tiny_bundle, "--host", f"unix:{path}")
    first.wait_for("ready;")
    first.process.kill()
    first.finish()
    assert path.exists()
    second = start_server(tiny_bundle, "--host", f"unix:{path}")
    second.wait_for("ready;")
    assert intent(f"unix:{path}") == "music"
    stop(second)


def test_socket_of_a_running_server_is_kept(
    start_server: Callable[..., Process], tiny_bundle: Path, path: Path
) -> None:
    first = start_server(tiny_bundle, "--host", f"unix:{path}")
    first.wait_for("ready;")
    second = start_server(tiny_bundle, "--host", f"unix:{path}")
    assert second.finish() == 2
    [line] = second.errors
    assert f"cannot listen on unix:{path}: another process listens on it" in line
    assert intent(f"unix:{path}") == "music"
    stop(first)


def test_stopping_server_leaves_the_socket_of_its_successor(
    start_server: Callable[..., Process], tiny_bundle: Path, path: Path
) -> None:
    first = start_server(tiny_bundle, "--host", f"unix:{path}")
    first.wait_for("ready;")
    path.unlink()
    second = start_server(tiny_bundle, "--host", f"unix:{path}")
    second.wait_for("ready;")
    stop(first)
    assert intent(f"unix:{path}") == "music"
    stop(second)


@pytest.mark.slow
def test_unusable_paths_are_one_message(start_server: Callable[..., Process], tiny_bundle: Path, path: Path) -> None:
    """And no file that is not a socket is removed."""
    path.write_text("mine")
    link = path.with_name("link")
    link.symlink_to(path)
    cases = {
        f"unix:{path}": "it exists and is not a socket",
        f"unix:{link}": "it exists and is not a socket",
        f"unix:{path.parent}": "it exists and is not a socket",
        "unix:/nowhere/x.sock": "No such file or directory. The server must be able to write to the directory /nowhere",
        "unix:/proc/x.sock": "The server must be able to write to the directory /proc",
        f"unix:{path}/x.sock": "Not a directory",
        f"unix:{path.parent}/{'x' * 100}": "must have at most 107 bytes",
        "unix:": "must name a socket, as in unix:/run/palm/palm.sock",
        "unix-abstract:": "must name a socket",
    }
    running = {host: start_server(tiny_bundle, "--host", host) for host in cases}
    for host, message in cases.items():
        assert running[host].finish() == 2
        [line] = running[host].errors
        assert message in line
    assert path.read_text() == "mine"
    assert sorted(os.listdir(path.parent)) == ["link", "x.sock"]


def test_server_serves_on_an_abstract_socket(start_server: Callable[..., Process], tiny_bundle: Path) -> None:
    target = f"unix-abstract:palm-test-{os.getpid()}"
    process = start_server(tiny_bundle, "--host", target)
    process.wait_for("ready;")
    assert intent(target, token="t") == "music"
    second = start_server(tiny_bundle, "--host", target)
    assert second.finish() == 2
    [line] = second.errors
    assert "another process listens on it" in line
    stop(process)


def test_tls_health_and_metrics_beside_a_socket(
    start_server: Callable[..., Process],
    tiny_bundle: Path,
    path: Path,
    make_certificate: Callable[..., tuple[Path, Path]],
) -> None:
    """These ports are on the loopback address, and the connections of both kinds are counted."""
    certificate, key = make_certificate("served")
    health, metrics = free_port(), free_port()
    options = ("--tls-cert", certificate, "--tls-key", key, "--health-port", health, "--metrics-port", metrics)
    process = start_server(tiny_bundle, "--host", f"unix:{path}", *options, "--max-connections-per-address", "2")
    process.wait_for("ready;")
    environment = {"PALM_SERVE_HOST": f"unix:{path}", "PALM_SERVE_HEALTH_PORT": str(health)}
    result = CliRunner().invoke(app, ["health"], env=environment)
    assert (result.exit_code, result.output) == (0, f"127.0.0.1:{health} serves\n")
    with Client(f"unix:{path}", timeout_s=60, credentials=tls(certificate)) as client:
        assert client.parse("play a song").intent.name == "music"
        with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=60) as response:
            assert "\npalm_connections 1.0\n" in response.read().decode()
    stop(process)


def test_clients_of_a_socket_count_as_one_address(
    start_server: Callable[..., Process], tiny_bundle: Path, path: Path
) -> None:
    process = start_server(tiny_bundle, "--host", f"unix:{path}", "--max-rate", "0.01", "--max-burst", "1")
    process.wait_for("ready;")
    assert intent(f"unix:{path}") == "music"
    result = CliRunner().invoke(app, ["call", "hello", "--target", f"unix:{path}", "--timeout", "5"])
    assert "requests a second" in result.output
    process.process.send_signal(signal.SIGTERM)
    assert process.finish() == 0


class TestOptions:
    def test_health_asks_the_socket_of_the_options(self, tmp_path: Path) -> None:
        assert _local_address(ServeOptions(host="unix:/run/x.sock")) == "unix:/run/x.sock"
        assert _local_address(ServeOptions(host="unix:/run/x.sock", health_port=7)) == "127.0.0.1:7"

    def test_path_in_a_file_is_relative_to_it(self, tmp_path: Path) -> None:
        file = tmp_path / "serve.toml"
        file.write_text('host = "unix:x.sock"\nsocket_mode = "660"\n')
        resolved = resolve({}, file, {})
        assert resolved.options.host == f"unix:{tmp_path / 'x.sock'}"
        file.write_text(as_toml(resolve({"host": "unix:x.sock"}, None, {})))
        assert resolve({}, file, {}).options.host == f"unix:{Path('x.sock').absolute()}"

    @pytest.mark.parametrize("values", [{"socket_mode": "888"}, {"socket_mode": "rw"}, {"metrics_host": "unix:/x"}])
    def test_invalid_options_are_refused(self, values: dict[str, str]) -> None:
        with pytest.raises(ConfigError, match=next(iter(values)).replace("_", "-")):
            resolve(values, None, {})

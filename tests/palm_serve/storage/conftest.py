"""A real S3 server on loopback (moto), and a proxy before it that slows, cuts and refuses."""

import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.environments import make_environment

ROOT = Path(__file__).parents[3]
MOTO = """
import sys
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""
REFUSAL = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


@dataclass
class Proxy:
    """Passes connections on. The fields may change while it runs."""

    port: int
    target: int
    requests: list[str] = field(default_factory=list)
    """First lines of the requests."""
    refuses: bool = False
    cut_after: int | None = None
    """Bytes of an answer after which its connection is closed."""
    bytes_per_s: float | None = None

    def serve(self, listener: socket.socket) -> None:
        """Accept connections until the listener is closed."""
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._pass_on, args=(client,), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self.target)) as server:
            back = threading.Thread(target=self._answer, args=(server, client), daemon=True)
            back.start()
            try:
                while data := client.recv(1 << 16):
                    self.requests += re.findall(r"^(?:GET|HEAD|PUT|POST|DELETE) \S+", data.decode("latin-1"), re.M)
                    if self.refuses:
                        head = f"HTTP/1.1 403 Forbidden\r\nContent-Type: application/xml\r\nContent-Length: {len(REFUSAL)}\r\n\r\n"
                        client.sendall(head.encode() + (b"" if data.startswith(b"HEAD") else REFUSAL))
                    else:
                        server.sendall(data)
            except OSError:
                return

    def _answer(self, server: socket.socket, client: socket.socket) -> None:
        sent = 0
        try:
            while data := server.recv(1 << 14):
                if self.cut_after is not None and sent + len(data) > self.cut_after:
                    client.sendall(data[: self.cut_after - sent])
                    break
                client.sendall(data)
                sent += len(data)
                if self.bytes_per_s is not None:
                    time.sleep(len(data) / self.bytes_per_s)
            client.shutdown(socket.SHUT_RDWR)
        except OSError:
            return


@pytest.fixture(scope="session")
def s3_packages() -> Path:
    """Return the folder of s3fs and what it needs, for PYTHONPATH."""
    python = make_environment("s3fs", ["palm-nlu[s3]"])
    return python.parents[1] / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


@pytest.fixture(scope="session")
def moto() -> Iterator[int]:
    """Run moto's server and return its port."""
    python = make_environment("moto", ["moto[server]==5.2.5"])
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([python, "-c", MOTO], text=True, **pipes)  # type: ignore[call-overload]
    try:
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


@pytest.fixture
def s3(moto: int) -> Iterator[Proxy]:
    """Run a proxy before an empty bucket `models`."""
    base = f"http://127.0.0.1:{moto}"
    urllib.request.urlopen(urllib.request.Request(f"{base}/moto-api/reset", method="POST")).close()
    urllib.request.urlopen(urllib.request.Request(f"{base}/models", method="PUT")).close()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        proxy = Proxy(listener.getsockname()[1], moto)
        threading.Thread(target=proxy.serve, args=(listener,), daemon=True).start()
        yield proxy
        listener.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def s3_environment(s3: Proxy, s3_packages: Path, tmp_path: Path) -> dict[str, str]:
    """Return the environment of commands that use the bucket."""
    return {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{s3_packages}",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3.port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }

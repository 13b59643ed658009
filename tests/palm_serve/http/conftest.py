"""A real server process with an HTTP door, and clients of it."""

import json
import math
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

TIMEOUT_S = 60.0


class Door:
    """The doors of one server: the address of gRPC, and a client of HTTP."""

    def __init__(self, process: Any, **options: Any) -> None:
        self.process = process
        self.target = process.target()
        self.url = process.wait_for(r"^palm-serve: listening on (https?://\S+)$")
        self.port = int(self.url.rpartition(":")[2])
        # Proxies of the environment are of no concern here.
        self.client = httpx.Client(base_url=self.url, timeout=TIMEOUT_S, trust_env=False, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.client.get(path, **options)

    def post(self, path: str, content: Any = None, **options: Any) -> httpx.Response:
        return self.client.post(path, **({"json": content} if content is not None else {}), **options)

    def connect(self) -> socket.socket:
        """Open a connection, for bytes that no client sends."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT_S)

    def exchange(self, data: bytes) -> bytes:
        """Send bytes on a connection, and return what comes until the server closes it."""
        with self.connect() as connection:
            connection.sendall(data)
            return self.receive_all(connection)

    @staticmethod
    def receive_all(connection: socket.socket) -> bytes:
        """Return what comes until the peer closes the connection."""
        received = b""
        try:
            while chunk := connection.recv(65536):
                received += chunk
        except ConnectionResetError:
            pass
        return received

    @staticmethod
    def status_of(answer: bytes) -> int:
        """Return the status of the first response."""
        match = re.match(rb"HTTP/1\.1 (\d+)", answer)
        assert match, answer
        return int(match[1])


def _doors(start: Callable[..., Any], bundle: Path) -> Iterator[Callable[..., Door]]:
    opened: list[Door] = []

    def make(*options: Any, client: dict[str, Any] | None = None, **more: Any) -> Door:
        arguments = (bundle, "--http-port", "0", "--drain-grace", "0", *options)
        opened.append(Door(start(*arguments, **more), **(client or {})))
        return opened[-1]

    yield make
    for door in opened:
        door.client.close()


@pytest.fixture
def make_door(start_server: Callable[..., Any], tiny_bundle: Path) -> Iterator[Callable[..., Door]]:
    """Return `make_door(*options, client=...)`, which starts a server with an HTTP door."""
    yield from _doors(start_server, tiny_bundle)


@pytest.fixture(scope="module")
def make_shared_door(start_shared_server: Callable[..., Any], tiny_bundle: Path) -> Iterator[Callable[..., Door]]:
    """Return `make_door` for a server that the tests of a module share."""
    yield from _doors(start_shared_server, tiny_bundle)


@pytest.fixture(scope="module")
def door(make_shared_door: Callable[..., Door]) -> Door:
    """Run a server that the tests of a module share."""
    return make_shared_door()


def _close(found: Any, expected: Any) -> bool:
    """Return true if values of JSON are equal, but for the rounding of numbers.

    A text that is decoded alone has another rounding than one among others, and which texts meet in a batch is chance.
    """
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(_close(found[key], expected[key]) for key in expected)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(_close, found, expected))
    if isinstance(expected, float):
        return math.isclose(found, expected, abs_tol=1e-6)
    if isinstance(expected, str) and expected.startswith("{"):
        return _close(json.loads(found), json.loads(expected))
    return bool(found == expected)


@pytest.fixture(scope="session")
def close() -> Callable[[Any, Any], bool]:
    """Return `close(found, expected)`."""
    return _close

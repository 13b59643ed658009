"""Proxies between a client and a server, for what happens on the network."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

PROXY_VARIABLES = ("http_proxy", "https_proxy", "grpc_proxy", "GRPC_ADDRESS_HTTP_PROXY")


class Relay:
    """A proxy on loopback that forwards connections and records what clients send.

    Args:
        target: HOST:PORT to which all connections are forwarded. None: that of each client's CONNECT request.
    """

    def __init__(self, target: str | None = None) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: list[tuple[socket.socket, socket.socket]] = []
        self._silent: set[socket.socket] = set()
        self.received = b""
        """Bytes of all clients."""
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def connections(self) -> int:
        """Number of connections so far."""
        return len(self._connections)

    def silence(self) -> None:
        """Drop everything that arrives on the open connections. They stay open, and new ones work."""
        for pair in self._connections:
            self._silent.update(pair)

    def close(self) -> None:
        for end in (self._listener, *(end for pair in self._connections for end in pair)):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        target = self._target
        if target is None:
            client.settimeout(60)
            request = client.recv(65536)
            self.received += request
            target = request.split()[1].decode()
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        host, _, port = target.rpartition(":")
        try:
            server = socket.create_connection((host, int(port)))
        except OSError:
            client.close()
            return
        self._connections.append((client, server))
        threading.Thread(target=self._pump, args=(server, client), daemon=True).start()
        self._pump(client, server)

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if source in self._silent:
                    continue
                if (source, sink) in self._connections:
                    self.received += data
                sink.sendall(data)
            if source not in self._silent:
                sink.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def make_relay() -> Iterator[Callable[..., Relay]]:
    """Return `make_relay(target)`, which starts a `Relay`."""
    relays: list[Relay] = []

    def make(target: str | None = None) -> Relay:
        relays.append(Relay(target))
        return relays[-1]

    yield make
    for relay in relays:
        relay.close()


@pytest.fixture(params=PROXY_VARIABLES)
def environment_proxy(
    request: pytest.FixtureRequest, make_relay: Callable[..., Relay], monkeypatch: pytest.MonkeyPatch
) -> Relay:
    """A recording proxy for HTTP CONNECT that one of the variables which gRPC heeds names."""
    relay = make_relay()
    for name in ("no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    if request.param == "GRPC_ADDRESS_HTTP_PROXY":
        monkeypatch.setenv(request.param, relay.address)
        monkeypatch.setenv("GRPC_ADDRESS_HTTP_PROXY_ENABLED_ADDRESSES", "0.0.0.0/0")
    else:
        monkeypatch.setenv(request.param, f"http://{relay.address}")
    return relay

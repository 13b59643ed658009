"""What one client may take: calls in flight, and requests per second. A client is a token's name, or else an address."""

import ipaddress
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from palm_serve.errors import Overloaded

_BUSY_RETRY_S = 0.1
_CLIENTS = 10_000
"""Buckets that are kept before the full ones are dropped, which are as good as none."""
_NETWORK_BITS = 64
"""Of an IPv6 address: the rest is a client's own to choose, and to change with every call."""


def address(peer: str) -> str:
    """Who is behind a peer as grpc writes it (`ipv4:HOST:PORT`, `ipv6:%5BHOST%5D:PORT`, `unix:PATH`)."""
    kind, _, place = peer.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return peer
    host = urllib.parse.unquote(place).rpartition(":")[0]
    if kind == "ipv4":
        return host
    network = ipaddress.ip_network((host.strip("[]").partition("%")[0], _NETWORK_BITS), strict=False)
    return str(network)


class InFlight:
    """Bounds the calls in flight of each client; grpc's maximum_concurrent_rpcs counts all clients together."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._running: Counter[str] = Counter()

    @contextmanager
    def admit(self, client: str) -> Iterator[None]:
        """Around one call. Raises Overloaded."""
        if self._running[client] >= self._limit:
            raise Overloaded(
                f"{self._limit:,} calls of this client are in flight, which is the limit: wait for answers",
                _BUSY_RETRY_S,
                "client_calls",
            )
        self._running[client] += 1
        try:
            yield
        finally:
            self._running[client] -= 1
            if not self._running[client]:
                del self._running[client]


class Rate:
    """A bucket per client that fills with `per_second` requests up to `burst`.

    A batch passes when one request would, and the rest of it is paid for afterwards. So in any t seconds a client gets
    at most burst + t x per_second requests, and what its last batch holds.
    """

    def __init__(self, per_second: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._burst = float(burst)
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, client: str) -> None:
        """One request. Raises Overloaded with the time until it would pass."""
        pause = self.pause_s(client)
        if pause:
            raise Overloaded(
                f"this client has asked for more than {self._per_second:g} requests a second and the {self._burst:,.0f} "
                "that may come at once: slow down",
                pause,
                "client_rate",
            )

    def pause_s(self, client: str) -> float:
        """Takes one request and returns 0, or takes nothing and returns the seconds until it can be taken."""
        missing = 1 - self._level(client)
        if missing > 0:
            return missing / self._per_second
        self.spend(client, 1)
        return 0.0

    def spend(self, client: str, requests: int) -> None:
        """Takes `requests`, also where the client has not saved as many."""
        self._buckets[client] = (self._level(client) - requests, self._clock())
        if len(self._buckets) > _CLIENTS:
            self._buckets = {name: state for name, state in self._buckets.items() if self._level(name) < self._burst}

    def _level(self, client: str) -> float:
        now = self._clock()
        level, since = self._buckets.get(client, (self._burst, now))
        return min(self._burst, level + (now - since) * self._per_second)

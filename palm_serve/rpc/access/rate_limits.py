"""Limits of one client: calls in flight and requests per second. A client is the name of a token, or else an address."""

import ipaddress
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache

from palm_serve.errors import Overloaded

_BUSY_RETRY_S = 0.1
_MAX_BUCKETS = 10_000
"""Number of buckets above which full ones are removed. A missing bucket counts as full."""
_NETWORK_BITS = 64
"""Prefix of an IPv6 address that identifies a client. A client can choose the other bits for every call."""

_MAX_PEERS = 4096
"""Peers whose address is kept, so that the calls of a connection read it once."""

UNIX_CLIENT = "unix"
"""Address of all clients of Unix sockets. A client could choose the path of its own end."""


@lru_cache(maxsize=_MAX_PEERS)
def client_address(peer: str) -> str:
    """Return the address of a peer of grpc (`ipv4:HOST:PORT`, `ipv6:%5BHOST%5D:PORT`, `unix:PATH`), without the port."""
    scheme, _, location = peer.partition(":")
    if scheme.startswith("unix"):
        return UNIX_CLIENT
    if scheme not in ("ipv4", "ipv6"):
        return peer
    return client_network(urllib.parse.unquote(location).rpartition(":")[0].strip("[]"))


def client_of(peer: str) -> tuple[str, int] | None:
    """Return the address and the port of a peer of grpc. None: it has no port."""
    if not peer.startswith(("ipv4:", "ipv6:")):
        return None
    return client_address(peer), int(peer.rpartition(":")[2])


def client_network(host: str) -> str:
    """Return what identifies a client: its IPv4 address, or the network of its IPv6 address."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:  # an IPv4 client of a server that listens on both
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((int(address), _NETWORK_BITS), strict=False))
    return str(address)


class InFlightLimit:
    """Limits the calls in flight of each client. grpc's maximum_concurrent_rpcs counts all clients together.

    Args:
        limit: limit of each client.
        noun: name of the calls in the refusal.
        reason: label of the refusal for metrics.
        total: limit of all clients together. None: unlimited.
    """

    def __init__(
        self, limit: int, noun: str = "calls in flight", reason: str = "client_calls", total: int | None = None
    ) -> None:
        self._limit = limit
        self._noun = noun
        self._reason = reason
        self._total = total
        self._running: Counter[str] = Counter()

    @property
    def clients(self) -> int:
        """Number of clients with a call in progress."""
        return len(self._running)

    @contextmanager
    def admit(self, client: str) -> Iterator[None]:
        """Count one call while it runs. Raises Overloaded."""
        if self._running[client] >= self._limit:
            raise Overloaded(
                f"the client must have at most {self._limit:,} {self._noun}. Wait until one has ended.",
                _BUSY_RETRY_S,
                self._reason,
            )
        if self._total is not None and self._running.total() >= self._total:
            raise Overloaded(
                f"the server must have at most {self._total:,} {self._noun}. Try another replica.",
                _BUSY_RETRY_S,
                self._reason,
            )
        self._running[client] += 1
        try:
            yield
        finally:
            self._running[client] -= 1
            if not self._running[client]:
                del self._running[client]


class RateLimit:
    """Token bucket per client that refills with `per_second` requests up to `burst`.

    A batch is admitted if one request would be, and its other requests are charged afterwards. So in t seconds a client gets
    at most burst + t x per_second requests, plus the size of its last batch.
    """

    def __init__(self, per_second: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._burst = float(burst)
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, client: str) -> None:
        """Take one request. Raises Overloaded with the time until it would be admitted."""
        pause_s = self.pause_s(client)
        if pause_s:
            raise Overloaded(
                f"the client must send at most {self._per_second:g} requests a second and {self._burst:,.0f} at once. "
                "Send fewer requests.",
                pause_s,
                "client_rate",
            )

    def pause_s(self, client: str) -> float:
        """Take one request and return 0, or take nothing and return the seconds until one can be taken."""
        missing = 1 - self._level(client)
        if missing > 0:
            return missing / self._per_second
        self.spend(client, 1)
        return 0.0

    def spend(self, client: str, requests: int) -> None:
        """Take `requests`, even if the bucket holds fewer."""
        self._buckets[client] = (self._level(client) - requests, self._clock())
        if len(self._buckets) > _MAX_BUCKETS:
            for name in list(self._buckets):
                if self._level(name) >= self._burst:
                    del self._buckets[name]

    def _level(self, client: str) -> float:
        now = self._clock()
        level, updated_at = self._buckets.get(client, (self._burst, now))
        return min(self._burst, level + (now - updated_at) * self._per_second)

"""Division of calls among the replicas of a server, the addresses of a target.

`round_robin` and `weighted` are policies of gRPC within one channel. `least` is of this module, with a channel for each
address, since gRPC has no such policy in Python. It calls the one of two replicas, drawn at random, that has fewer calls of this
client in flight. So a replica that has become slow gets few calls, and one that hangs hardly any.
"""

import json
import random
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Collection
from typing import Any, Literal, TypeAlias

import grpc

from palm_serve.client.channel import ChannelOptions, ConnectionPool, channel_options
from palm_serve.errors import InvalidRequest, Unavailable
from palm_serve.system.addresses import host_of, is_unix

Balance: TypeAlias = Literal["round_robin", "weighted", "least"]
BALANCES: tuple[Balance, ...] = ("round_robin", "weighted", "least")

_POLICIES: dict[str, dict[str, Any]] = {
    "round_robin": {"round_robin": {}},
    # Servers report their load in the trailers of each answer.
    "weighted": {"weighted_round_robin": {"blackoutPeriod": "1s", "weightUpdatePeriod": "1s"}},
}
_OUTLIER_DETECTION: dict[str, Any] = {
    # A replica that answers nothing, as a machine that hangs, gets no calls for a while. Only one that fails nearly all of
    # them: refusals of an overloaded fleet must not take replicas away.
    "interval": "2s",
    "baseEjectionTime": "10s",
    "maxEjectionPercent": 30,
    "failurePercentageEjection": {
        "threshold": 90,
        "enforcementPercentage": 100,
        "minimumHosts": 2,
        "requestVolume": 5,
    },
}
_RESOLVE_S = 30.0
"""Seconds after which the addresses of a name are looked up again."""
_DEFAULT_PORT = 443
"""Port of a target without one, as in gRPC."""

Open: TypeAlias = Callable[[str, ChannelOptions], ConnectionPool]
"""Opens the connections to an address, with further options."""


def policy_options(balance: Balance) -> ChannelOptions:
    """Return the options of a channel that divides its calls among the addresses of its target."""
    policy = {"outlier_detection_experimental": {**_OUTLIER_DETECTION, "childPolicy": [_POLICIES[balance]]}}
    return (("grpc.service_config", json.dumps({"loadBalancingConfig": [policy]})),)


class OneChannel:
    """All replicas in one channel, among which gRPC chooses.

    Args:
        pool: the connections of the target.
    """

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    def choose(self, tried: Collection[ConnectionPool]) -> ConnectionPool:
        """Return the connections for a call."""
        return self._pool

    def channels_to_close(self) -> list[Any]:
        """Return channels that are no longer used: none."""
        return []

    def channels(self) -> list[Any]:
        """Return all open channels."""
        return self._pool.channels()


class LeastInFlight:
    """A channel for each replica, of which the less busy one of two is called. Threads may share it.

    Args:
        target: gRPC name: a host with a port, `dns:///HOST:PORT`, `ipv4:` or `ipv6:` with several addresses.
        open_pool: opens the connections to one address.

    Raises:
        InvalidRequest: the name cannot be looked up in this way.
    """

    def __init__(self, target: str, open_pool: Open) -> None:
        self._target = target
        self._open = open_pool
        self._lock = threading.Lock()
        self._pools: dict[str, ConnectionPool] = {}
        self._leaving: list[ConnectionPool] = []
        self._resolved: list[str] | None = None
        """Addresses that were looked up and are not in use yet."""
        self._resolve_at = 0.0
        self._host, self._addresses = _split_target(target)
        self._options: ChannelOptions = ()
        if self._host:
            # The server is known by its name, also where its address is called.
            self._options = (
                ("grpc.default_authority", self._host),
                ("grpc.ssl_target_name_override", host_of(self._host)),
            )

    def choose(self, tried: Collection[ConnectionPool]) -> ConnectionPool:
        """Return the connections for a call.

        Args:
            tried: connections on which earlier attempts of the call failed. Others are preferred.

        Raises:
            Unavailable: the name of the target has no address.
        """
        with self._lock:
            self._update_addresses()
            pools = list(self._pools.values())
        usable = [pool for pool in pools if pool not in tried and not pool.is_failing]
        usable = usable or [pool for pool in pools if pool not in tried] or pools
        if len(usable) == 1:
            return usable[0]
        first, second = random.sample(usable, 2)
        return first if first.in_flight <= second.in_flight else second

    def channels_to_close(self) -> list[Any]:
        """Return the channels to addresses that the target no longer has, once their calls have ended."""
        channels: list[Any] = []
        with self._lock:
            for pool in list(self._leaving):
                if not pool.in_flight:
                    self._leaving.remove(pool)
                    channels += pool.channels()
        return channels

    def channels(self) -> list[Any]:
        """Return all open channels."""
        channels: list[Any] = []
        for pool in (*self._pools.values(), *self._leaving):
            channels += pool.channels()
        return channels

    def _update_addresses(self) -> None:
        """Look up the addresses if they are not known or old, and open channels to the new ones."""
        if not self._pools:
            self._resolved = self._addresses or self._look_up()
        elif self._host and time.monotonic() >= self._resolve_at:
            self._resolve_at = time.monotonic() + _RESOLVE_S
            threading.Thread(target=self._look_up_again, name="palm-resolve", daemon=True).start()
        if self._resolved is None:
            return
        addresses, self._resolved = self._resolved, None
        for address in self._pools.keys() - set(addresses):
            self._leaving.append(self._pools.pop(address))
        for address in addresses:
            if address not in self._pools:
                self._pools[address] = self._open(address, self._options)

    def _look_up(self) -> list[str]:
        """Return the addresses of the target's name. Raise Unavailable if it has none."""
        self._resolve_at = time.monotonic() + _RESOLVE_S
        try:
            return _resolve(self._host)
        except OSError as error:
            raise Unavailable(
                f"no answer from a PALM server at {self._target}: its name has no address: {error.strerror}"
            ) from None

    def _look_up_again(self) -> None:
        """Look the addresses up. Those in use stay where that fails."""
        try:
            self._resolved = _resolve(self._host)
        except OSError:
            self._resolve_at = time.monotonic() + 1.0


def open_replicas(
    api: Any, target: str, credentials: grpc.ChannelCredentials | None, use_proxy: bool, balance: Balance
) -> OneChannel | LeastInFlight:
    """Open the connections of a client.

    Args:
        api: the module `grpc` or `grpc.aio`.
        target: gRPC name of the server.
        credentials: TLS credentials. None: plain text.
        use_proxy: let gRPC use a proxy of the environment if the target is another machine.
        balance: how calls are divided among the addresses of the target.

    Raises:
        InvalidRequest: there is no such balance, or the target cannot be called with it.
    """
    if balance not in BALANCES:
        raise InvalidRequest(f"balance must be {', '.join(BALANCES)}, got {balance!r}. Choose one of them.", "balance")
    if balance != "least" or is_unix(target):
        policy = "round_robin" if balance == "least" else balance
        options = (*channel_options(target, use_proxy), *policy_options(policy))
        return OneChannel(ConnectionPool(api, target, credentials, options))

    def open_pool(address: str, options: ChannelOptions) -> ConnectionPool:
        return ConnectionPool(api, address, credentials, (*channel_options(target, use_proxy), *options))

    return LeastInFlight(target, open_pool)


def _split_target(target: str) -> tuple[str, list[str]]:
    """Return the `HOST:PORT` of a name that is to be looked up, or the addresses of a target that lists them."""
    for scheme in ("ipv4:", "ipv6:"):
        if target.startswith(scheme):
            listed = urllib.parse.unquote(target.removeprefix(scheme)).split(",")
            return "", [f"{scheme}{address}" for address in listed]
    name = target.removeprefix("dns:///") if target.startswith("dns:///") else target.removeprefix("dns:")
    if "/" in name:
        raise InvalidRequest(
            f"target must be a name that this machine looks up for balance='least', got '{target}'. "
            "Use dns:///HOST:PORT, ipv4:ADDRESS:PORT,ADDRESS:PORT, or another balance.",
            "target",
        )
    return name, []


def _resolve(host: str) -> list[str]:
    """Return the addresses of `HOST:PORT` as gRPC names, each once."""
    split_host = urllib.parse.urlsplit(f"//{host}")
    results = socket.getaddrinfo(split_host.hostname, split_host.port or _DEFAULT_PORT, type=socket.SOCK_STREAM)
    addresses: dict[str, None] = {}
    for family, _, _, _, (ip_address, port, *_) in results:
        if family == socket.AF_INET6:
            addresses[f"ipv6:[{ip_address!s}]:{port!s}"] = None
        elif family == socket.AF_INET:
            addresses[f"ipv4:{ip_address!s}:{port!s}"] = None
    return list(addresses)

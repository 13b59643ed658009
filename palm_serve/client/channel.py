"""The connection of a client: its options, and its replacement when it has fallen silent."""

import itertools
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc

from palm_serve.system.addresses import is_unix, proxy_options
from palm_serve.v1 import palm_pb2_grpc as stubs

ChannelOptions = tuple[tuple[str, int | str], ...]

_COMMON: ChannelOptions = (
    # The response to a batch may be larger than grpc's default of 4 MiB. The server limits the requests.
    ("grpc.max_receive_message_length", -1),
    # A connection that has fallen silent, as behind a firewall that has forgotten it, is noticed after 30 s.
    # The server allows a ping every 10 s. Without calls none is sent.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Otherwise grpc 1.85 waits for its default of 60 s and ignores the option above.
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    # A server that was away is found again within 5 s: grpc adds up to a fifth. Its own limit is 2 minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 4_000),
    # A server that has moved is found under its new address. gRPC asks the DNS every 30 s otherwise.
    ("grpc.dns_min_time_between_resolutions_ms", 2_000),
    # Time limit of one attempt to connect. A new attempt starts after it.
    ("grpc.min_reconnect_backoff_ms", 5_000),
)
_MAX_DEADLINES = 3
"""Calls without an answer, one after the other, after which the connection is replaced."""
_SILENT_S = 5.0
"""Time without any answer before the connection is replaced."""
_numbers = itertools.count(1)


def channel_options(target: str, use_proxy: bool = True) -> ChannelOptions:
    """Return the options of a channel.

    Args:
        target: gRPC name of the server.
        use_proxy: let gRPC use a proxy of the environment if the target is another machine.
    """
    options = (*_COMMON, *proxy_options(target, use_proxy))
    if is_unix(target):
        # A socket has no host name, which a certificate could be valid for.
        return (*options, ("grpc.ssl_target_name_override", "localhost"))
    if target.startswith(("ipv4:", "ipv6:")) and "," in target:
        # gRPC would name the server by the whole list, which HAProxy refuses: no host name has a comma.
        first = urllib.parse.unquote(target.partition(":")[2]).partition(",")[0]
        return (*options, ("grpc.default_authority", first))
    return options


def open_channel(api: Any, target: str, credentials: grpc.ChannelCredentials | None, options: ChannelOptions) -> Any:
    """Open a channel.

    Args:
        api: the module `grpc` or `grpc.aio`.
        target: gRPC name of the server.
        credentials: TLS credentials. None: plain text.
        options: the options of the channel.
    """
    if credentials is None:
        return api.insecure_channel(target, options=options)
    return api.secure_channel(target, credentials, options=options)


class Connection:
    """One channel with its stubs, and the answers that it has brought. Threads may share it.

    Args:
        channel: the channel.
    """

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        self.dialogue = stubs.DialogueUnderstandingStub(channel)  # type: ignore[no-untyped-call]
        self.prediction = stubs.PredictionStub(channel)  # type: ignore[no-untyped-call]
        self.models = stubs.ModelsStub(channel)  # type: ignore[no-untyped-call]
        self.health = health_pb2_grpc.HealthStub(channel)
        self._lock = threading.Lock()
        self._deadlines = 0
        self._last_answer = time.monotonic()

    @property
    def is_silent(self) -> bool:
        """Return true if the last calls passed their deadlines and nothing was received meanwhile."""
        return self._deadlines >= _MAX_DEADLINES and time.monotonic() - self._last_answer >= _SILENT_S

    def answered(self) -> None:
        """Record an answer of the server, which may be an error."""
        with self._lock:
            self._deadlines = 0
            self._last_answer = time.monotonic()

    def passed_deadline(self) -> None:
        """Record a call whose deadline has passed without an answer."""
        with self._lock:
            self._deadlines += 1


class ConnectionPool:
    """The current connection of a client and the former one, whose last calls may still run. Threads may share it.

    Args:
        api: the module `grpc` or `grpc.aio`.
        target: gRPC name of the server.
        credentials: TLS credentials. None: plain text.
        options: the options of the channel.
    """

    def __init__(
        self, api: Any, target: str, credentials: grpc.ChannelCredentials | None, options: ChannelOptions
    ) -> None:
        self._api = api
        self._target = target
        self._credentials = credentials
        self._options = options
        self._lock = threading.Lock()
        self.in_flight = 0
        """Calls that have begun and not ended."""
        self._failing_until = 0.0
        self.current = Connection(open_channel(api, target, credentials, self._options))
        self._former: Connection | None = None

    @property
    def is_failing(self) -> bool:
        """Return true for a moment after a call that nobody answered."""
        return time.monotonic() < self._failing_until

    @contextmanager
    def call(self) -> Iterator[Connection]:
        """Count a call in flight while its block runs."""
        with self._lock:
            self.in_flight += 1
        try:
            yield self.current
        finally:
            with self._lock:
                self.in_flight -= 1

    def avoid(self, seconds: float) -> None:
        """Count as failing for so many seconds."""
        self._failing_until = time.monotonic() + seconds

    def replace_silent(self) -> list[Any]:
        """Open a new connection if the current one has fallen silent. Return the channels that are to be closed."""
        with self._lock:
            if not self.current.is_silent:
                return []
            # grpc shares a connection among channels with equal options, so the number makes them differ.
            options = (*self._options, ("palm.connection", next(_numbers)))
            to_close = [] if self._former is None else [self._former.channel]
            self._former = self.current
            self.current = Connection(open_channel(self._api, self._target, self._credentials, options))
        return to_close

    def channels(self) -> list[Any]:
        """Return the open channels."""
        current = self.current.channel
        return [current] if self._former is None else [current, self._former.channel]

"""Limits of connections, of all clients and of one address.

Also closes connections whose calls are reset all the time, and blocks their address for a while.

gRPC accepts connections itself and tells nothing about them. Its own limit counts all clients together, so one address could
take every connection. But the sockets belong to this process. They are looked at shortly after a connection arrives, and those
beyond a limit are shut down. Connections that an address had before are kept.
"""

import logging
import os
import select
import socket
import stat
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator

from palm_serve.config import ServeOptions
from palm_serve.rpc.access.rate_limits import UNIX_CLIENT, client_network, client_of
from palm_serve.rpc.transport.descriptors import usable_for_connections
from palm_serve.rpc.transport.listening import LocalName
from palm_serve.rpc.transport.reset_limits import RESETS_PER_S, ResetLimits
from palm_serve.rpc.transport.socket_filter import MAX_ADDRESSES, set_filter

log = logging.getLogger(__name__)

IS_SUPPORTED = hasattr(select, "epoll") and os.path.isdir("/proc/self/fd")
"""Only Linux shows a process its sockets."""
_DESCRIPTORS = "/proc/self/fd"
_LEAST_SHARE = 16
"""Least value of the default limit of one address."""
_ACCEPT_S = 0.01
"""Time for gRPC to accept a connection before the sockets are looked at."""
_LOOK_S = 1.0
"""Interval of the looks without new connections."""
_WARNING_S = 60.0
"""Least interval of two warnings."""
_CLOSED = ""
"""Address of a connection that has been shut down."""

Socket = tuple[int, int]
"""Descriptor and inode: a descriptor alone may be another socket a moment later."""


def connection_limit(options: ServeOptions) -> int:
    """Return the limit of open connections. It is lower than the option where the process may open too few files."""
    # An eighth is left for connections that are about to be refused.
    return max(1, min(options.max_connections, usable_for_connections() * 7 // 8))


def grpc_connection_limit(options: ServeOptions) -> int:
    """Return the limit at which gRPC itself refuses connections. It exceeds the limit, so that refusals can be counted."""
    limit = connection_limit(options)
    return min(usable_for_connections(), limit + max(limit // 4, _LEAST_SHARE)) if IS_SUPPORTED else limit


def address_limit(options: ServeOptions) -> int:
    """Return the limit of open connections of one address. 0: no limit."""
    if options.max_connections_per_address is not None:
        return options.max_connections_per_address
    return max(connection_limit(options) // 4, _LEAST_SHARE)


def warn_of_few_descriptors(options: ServeOptions) -> None:
    """Log a warning if the process may open too few files for the connections of the options."""
    limit = connection_limit(options)
    if limit < options.max_connections:
        log.warning(
            "at most %d connections are accepted instead of max_connections = %d, because the process may open too few files "
            "(ulimit -n). Raise that limit, or set max_connections to %d.",
            limit,
            options.max_connections,
            limit,
        )


class ConnectionLimits:
    """Counts the connections of this process and shuts down those beyond the limits, on a thread of its own.

    Args:
        options: the options of the server.
    """

    def __init__(self, options: ServeOptions) -> None:
        self._limit = connection_limit(options)
        self._is_chosen = bool(options.max_connections_per_address)
        self._address_limit = address_limit(options) or sys.maxsize
        self._blocks_addresses = address_limit(options) > 0
        self.on_refused: Callable[[str, int], None] = lambda reason, count: None
        """Called with `total`, `address` or `resets`, and the number of connections that were shut down."""
        self._reset_limits = ResetLimits()
        self._resets: deque[str] = deque()
        """Connection of each call that was reset since the last look."""
        self._blocked: list[str] = []
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) if IS_SUPPORTED else -1
        self._names: frozenset[LocalName] = frozenset()
        self._known: dict[Socket, str | None] = {}
        """Address of each socket, the oldest first. None: no connection of a client."""
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._warned_at: dict[str, float] = {}

    def start(self, names: Iterable[LocalName]) -> None:
        """Watch the sockets that listen under these names, and the connections that they accept."""
        self._names = frozenset(names)
        if IS_SUPPORTED:
            threading.Thread(target=self._watch, name="palm-connections", daemon=True).start()
        elif self._is_chosen:
            log.warning("max_connections_per_address has no effect: it needs Linux with /proc.")

    def stop(self) -> None:
        """Stop watching."""
        self._stopped.set()

    def count_reset(self, connection: str) -> None:
        """Count a call that its client has reset before its message was read. It belongs to the event loop.

        Args:
            connection: the connection as gRPC names it, `ipv4:HOST:PORT`.
        """
        if not IS_SUPPORTED or self._stopped.is_set():
            return
        self._resets.append(connection)
        if len(self._resets) == 1:
            os.eventfd_write(self._wake, 1)

    def open_connections(self) -> int:
        """Return the number of open connections. Any thread may call this."""
        if IS_SUPPORTED:
            self.look()
        with self._lock:
            return sum(map(bool, self._known.values()))

    def look(self) -> bool:
        """Look at the sockets, and shut down connections beyond the limits. Return true if the next look should be soon."""
        with self._lock:
            refused: Counter[str] = Counter()
            self._refuse_blocked(self._update(), refused)
            has_resets = self._close_resetting(refused)
            of_address: Counter[str] = Counter()
            total = 0
            for connection, address in self._known.items():
                if not address:
                    continue
                reason = ""
                if of_address[address] >= self._address_limit:
                    reason = "address"
                elif total >= self._limit:
                    reason = "total"
                if not reason:
                    of_address[address] += 1
                    total += 1
                else:
                    self._close(connection, reason, refused)
        for reason, count in refused.items():
            self.on_refused(reason, count)
        is_crowded = 2 * max(of_address.values(), default=0) > self._address_limit or 2 * total > self._limit
        return is_crowded or has_resets

    def _watch(self) -> None:
        with select.epoll() as arrivals:
            for listener in self._listening_sockets():
                # gRPC accepts. The edge tells that a connection has arrived.
                arrivals.register(listener, select.EPOLLIN | select.EPOLLET)
            arrivals.register(self._wake, select.EPOLLIN | select.EPOLLET)
            while not self._stopped.is_set():
                arrivals.poll(_LOOK_S)
                self._stopped.wait(_ACCEPT_S)
                began = time.thread_time()
                is_urgent = self.look()
                # Looking takes a hundredth of a core, and a tenth while an address opens many connections or resets calls.
                self._stopped.wait((10 if is_urgent else 100) * (time.thread_time() - began))

    def _close(self, connection: Socket, reason: str, refused: Counter[str]) -> None:
        """Shut down a connection, and count it in `refused`."""
        address = self._known[connection]
        if address and _shut_down(connection):
            self._known[connection] = _CLOSED
            refused[reason] += 1
            self._warn(reason, address)

    def _refuse_blocked(self, arrived: Iterable[Socket], refused: Counter[str]) -> None:
        """Shut down the connections that have arrived from blocked addresses."""
        if not self._blocked:
            return
        self._filter()
        for connection in arrived:
            if self._known[connection] in self._blocked:
                self._close(connection, "resets", refused)

    def _close_resetting(self, refused: Counter[str]) -> bool:
        """Shut down connections whose calls were reset too often, and block their addresses. Return true if any were reset."""
        resets: Counter[tuple[str, int]] = Counter()
        for _ in range(len(self._resets)):
            peer = client_of(self._resets.popleft())
            if peer is not None:
                resets[peer] += 1
        if not resets:
            return False
        connections = self._peers({address for address, _ in resets})
        for peer, count in resets.items():
            connection = connections.get(peer)
            if not self._reset_limits.charge(peer[0], count, connection is not None):
                continue
            if connection is not None:
                self._close(connection, "resets", refused)
            if self._blocks_addresses:
                self._reset_limits.block(peer[0])
                self._filter()
        return True

    def _peers(self, addresses: set[str]) -> dict[tuple[str, int], Socket]:
        """Return the open connections of some addresses, by address and port."""
        peers: dict[tuple[str, int], Socket] = {}
        for connection, address in self._known.items():
            if address not in addresses:
                continue
            try:
                with socket.socket(fileno=os.dup(connection[0])) as duplicate:
                    peers[address, duplicate.getpeername()[1]] = connection
            except OSError:  # closed meanwhile
                continue
        return peers

    def _filter(self) -> None:
        """Let the operating system drop packets of the addresses that are blocked now."""
        blocked = self._reset_limits.blocked()
        if blocked == self._blocked:
            return
        self._blocked = blocked
        for descriptor in self._listening_sockets():
            try:
                with socket.socket(fileno=os.dup(descriptor)) as listener:
                    set_filter(listener, blocked[-MAX_ADDRESSES:])
            except (
                OSError
            ) as error:  # Unix socket, or not allowed: their connections are shut down after they are accepted
                log.debug("packets of blocked addresses cannot be dropped: %s", error)

    def _update(self) -> list[Socket]:
        """Add new sockets to the known ones and return them. Remove closed ones."""
        try:
            current = dict.fromkeys(_sockets())
        except OSError as error:  # no descriptor is left to list them with
            log.debug("the sockets of the process cannot be listed: %s", error)
            return []
        addresses: dict[Socket, str | None] = {}
        for connection, address in self._known.items():
            if connection in current:
                addresses[connection] = address
        arrived = []
        for connection in current:
            if connection not in addresses:
                addresses[connection] = self._client_address(connection[0])
                arrived.append(connection)
        self._known = addresses
        return arrived

    def _client_address(self, descriptor: int) -> str | None:
        """Return the address of the client if the socket is a connection that the server has accepted."""
        try:
            with socket.socket(fileno=os.dup(descriptor)) as connection:
                if _local_name(connection) not in self._names:
                    return None
                peer = connection.getpeername()
                return UNIX_CLIENT if connection.family == socket.AF_UNIX else client_network(peer[0])
        except OSError:  # closed meanwhile, listening, or no socket of a kind that Python knows
            return None

    def _listening_sockets(self) -> Iterator[int]:
        for descriptor, _ in _sockets():
            try:
                with socket.socket(fileno=os.dup(descriptor)) as listener:
                    listens = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                    if listens and _local_name(listener) in self._names:
                        yield descriptor
            except OSError:
                continue

    def _warn(self, reason: str, address: str) -> None:
        now = time.monotonic()
        if now - self._warned_at.get(reason, -_WARNING_S) < _WARNING_S:
            return
        self._warned_at[reason] = now
        if reason == "resets":
            log.warning(
                "connections of %s are closed, and refused for a while: it resets more than %d calls a second before they are read.%s",
                address,
                RESETS_PER_S,
                ""
                if self._blocks_addresses
                else " Its next connections are accepted (--max-connections-per-address 0).",
            )
        elif reason == "total":
            log.warning(
                "connections are refused: the limit of %d is reached. See --max-connections and ulimit -n.", self._limit
            )
        else:
            log.warning(
                "connections of %s are refused: it has reached the limit of %d for one address. Behind a proxy, which gives all "
                "clients its own address, set --max-connections-per-address 0.",
                address,
                self._address_limit,
            )


def _sockets() -> Iterator[Socket]:
    """Yield the sockets of this process."""
    for name in os.listdir(_DESCRIPTORS):
        descriptor = int(name)
        try:
            status = os.fstat(descriptor)
        except OSError:  # closed meanwhile
            continue
        if stat.S_ISSOCK(status.st_mode):
            yield descriptor, status.st_ino


def _local_name(connection: socket.socket) -> LocalName:
    name = connection.getsockname()
    if connection.family in (socket.AF_INET, socket.AF_INET6):
        return int(name[1])
    return name if isinstance(name, str | bytes) else ""


def _shut_down(connection: Socket) -> bool:
    """Shut down a connection, which gRPC then closes. Return false if the descriptor is another socket by now."""
    descriptor, inode = connection
    try:
        with socket.socket(fileno=os.dup(descriptor)) as duplicate:
            if os.fstat(duplicate.fileno()).st_ino != inode:
                return False
            duplicate.shutdown(socket.SHUT_RDWR)
    except OSError:
        return False
    return True

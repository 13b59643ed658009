"""The sockets of the HTTP door: uvicorn's connections on the event loop of the server.

uvicorn's own server is not used, because it handles signals, opens its certificate once and knows nothing of the drain.
"""

import asyncio
import ctypes
import logging
import select
import socket
import struct
import sys
import time
import weakref
from contextlib import suppress
from email.utils import formatdate
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.flow_control import CLOSE_HEADER
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from palm_serve.config import ServeOptions
from palm_serve.errors import BindError
from palm_serve.http.context import TRANSPORT
from palm_serve.http.guard import DISCONNECTED, TASK, App
from palm_serve.rpc.transport.listening import Listener
from palm_serve.rpc.transport.tls import Certificates

log = logging.getLogger(__name__)

_TICK_S = 1.0
"""Interval at which the date of responses and the certificate are renewed."""
_KEEP_ALIVE_S = 75
"""Time after which an idle connection is closed. Longer than the 60 s of common proxies, which else reuse a closed one."""
_LOOK_S = 0.02
_BACKLOG = 1024
"""Limit of the connections that wait in the queue of the listening socket."""
_SO_ATTACH_FILTER = 26
"""Option of a socket in Linux, which Python does not name."""


class _Sender:
    """The transport of a connection, which sends the head and the body of a response at once: each is a call of the system else.

    Args:
        transport: the transport of asyncio.
        loop: its event loop.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._waiting: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send bytes, with those that follow before the event loop goes on."""
        if not data:
            return
        if not self._waiting:
            self._loop.call_soon(self._flush)
        self._waiting.append(data)

    def close(self) -> None:
        """Close the connection after what was written."""
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        """Close the connection at once."""
        self._waiting.clear()
        self._transport.abort()

    def _flush(self) -> None:
        if self._waiting:
            data = b"".join(self._waiting)
            self._waiting.clear()
            self._transport.write(data)


class _Connection(H11Protocol):
    """A connection whose headers must arrive in time, and whose calls end when the client disconnects."""

    def __init__(self, config: uvicorn.Config, state: ServerState, header_timeout_s: float) -> None:
        super().__init__(config, state, {})
        self._header_timeout_s = header_timeout_s
        self._header_timer: asyncio.TimerHandle | None = None
        self._draining = False

    @property
    def awaits_request(self) -> bool:
        """True if the client has been promised an answer by `drain`, and its request has not begun or not arrived whole."""
        if self.transport is None:  # in the handshake of TLS
            return True  # type: ignore[unreachable]
        return self._draining and not self.transport.is_closing() and self.conn.their_state is h11.IDLE

    def drain(self) -> None:
        """Close the connection after its next response, or now if it is idle between two requests.

        A client that has connected and sent nothing yet has its request under way, and so has one whose bytes were not read.
        """
        self._draining = True
        if self.cycle is None:  # no request yet
            return  # type: ignore[unreachable]
        if self.transport.is_closing():  # it is lost, and `connection_lost` is about to be called
            return
        if not self.cycle.response_complete:
            self._close_after_response()
        elif not (self.conn.trailing_data[0] or _has_unread(self.transport)):
            self.shutdown()

    def _close_after_response(self) -> None:
        """Close the connection after the response, and say so in its headers, unless they are sent."""
        self.cycle.keep_alive = False
        headers = self.cycle.scope["headers"]
        if CLOSE_HEADER not in headers:
            # uvicorn closes on request of the client. It adds the header to the response, unless the response has one.
            self.cycle.scope["headers"] = [*headers, CLOSE_HEADER]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(_Sender(transport, self.loop))  # type: ignore[arg-type]
        self.app_state = {TRANSPORT: transport}
        self._await_headers()

    def data_received(self, data: bytes) -> None:
        """Handle received bytes."""
        super().data_received(data)
        if self._draining and self.cycle is not None and not self.cycle.response_complete:
            self._close_after_response()
        if self.conn.their_state is not h11.IDLE:
            self._stop_timer()
        elif self._header_timer is None:
            self._await_headers()

    def on_response_complete(self) -> None:
        """Handle the end of a response."""
        super().on_response_complete()
        self._stop_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the call of a client that has disconnected."""
        self._stop_timer()
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            request: dict[str, Any] = cycle.scope  # type: ignore[assignment]  # with the keys of `guard`
            task = request.get(TASK)
            if task is not None:
                request[DISCONNECTED] = True
                task.cancel()
        super().connection_lost(exc)

    def _await_headers(self) -> None:
        self._header_timer = self.loop.call_later(self._header_timeout_s, self._end_late)

    def _stop_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _end_late(self) -> None:
        """Close a connection whose headers have not arrived whole."""
        self._header_timer = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.transport.abort()


class HttpServer:
    """Listens for HTTP on one address. It belongs to the event loop on which `start` is called.

    Args:
        app: answers the requests.
        options: the options of the server.
        certificates: certificates of the server. None: without TLS.
    """

    def __init__(self, app: App, options: ServeOptions, certificates: Certificates | None) -> None:
        self._options = options
        self._certificates = certificates
        self._config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            h11_max_incomplete_event_size=options.max_metadata_kib * 1024,
        )
        self._config.load()
        # What a client sends wrong is no warning of the server. It gets its answer.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        self._state = ServerState()
        self._socket: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._context: Any = None
        self._ticks: asyncio.Task[None] | None = None
        self._draining = False
        self._opened: weakref.WeakSet[_Connection] = weakref.WeakSet()
        self._last_connections: set[asyncio.Task[Any]] = set()

    def bind(self) -> Listener:
        """Bind the address. Raises BindError."""
        host, port = self._options.tcp_host.strip("[]"), self._options.http_port
        try:
            family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
            self._socket = socket.create_server((str(address[0]), int(address[1])), family=family, backlog=_BACKLOG)
        except OSError as error:
            raise BindError(
                f"cannot listen on {host}:{port}: {error.strerror}. Choose another --http-port or --host."
            ) from None
        self._socket.setblocking(False)
        chosen_port = int(self._socket.getsockname()[1])
        name = f"[{host}]" if ":" in host else host
        scheme = "http" if self._certificates is None else "https"
        return Listener(f"{scheme}://{name}:{chosen_port}", chosen_port)

    async def start(self) -> None:
        """Accept connections."""
        await self._listen()
        self._set_date()
        self._ticks = asyncio.create_task(self._tick())

    async def _listen(self) -> None:
        """Accept connections with the current certificate, in place of the one before."""
        assert self._socket is not None
        former = self._server
        self._context = None if self._certificates is None else self._certificates.context
        # The duplicate has the same queue of connections, so that none is lost.
        self._server = await asyncio.get_running_loop().create_server(
            self._connect,
            sock=self._socket.dup(),
            backlog=_BACKLOG,
            ssl=self._context,
            ssl_handshake_timeout=None if self._context is None else self._options.handshake_timeout,
        )
        if former is not None:
            former.close()

    def _connect(self) -> asyncio.Protocol:
        connection = _Connection(self._config, self._state, self._options.message_timeout)
        self._opened.add(connection)
        if self._draining:
            connection.drain()
        return connection

    def _set_date(self) -> None:
        self._state.default_headers = [
            (b"date", formatdate(time.time(), usegmt=True).encode()),
            (b"x-content-type-options", b"nosniff"),
        ]

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            self._set_date()
            if self._certificates is not None:
                self._certificates.look()
                if self._certificates.context is not self._context:
                    await self._listen()

    def drain(self) -> None:
        """Accept no more connections, close idle ones, and close the others after their responses.

        A connection is the client's before the server accepts it, and its request may be in it. So those that wait in the
        queue of the socket are accepted first: the socket resets them when it is closed.
        """
        if self._draining:
            return
        self._draining = True
        if self._ticks is not None:
            self._ticks.cancel()
        if self._socket is not None:
            _refuse_connections(self._socket)
            self._accept_last(self._socket)
            self._socket.close()
        for connection in [*self._opened]:
            connection.drain()

    def _accept_last(self, listening: socket.socket) -> None:
        """Accept the connections that wait in the queue of the listening socket."""
        if self._server is not None:
            self._server.close()
        loop = asyncio.get_running_loop()
        timeout_s = None if self._context is None else self._options.handshake_timeout
        while True:
            try:
                accepted, _ = listening.accept()
            except ConnectionAbortedError:  # the client has left
                continue
            except BlockingIOError:
                return
            except OSError as error:
                log.warning("the last connections cannot be accepted: %s", error.strerror)
                return
            accepted.setblocking(False)
            opening = loop.create_task(
                loop.connect_accepted_socket(
                    self._connect, accepted, ssl=self._context, ssl_handshake_timeout=timeout_s
                )
            )
            opening.add_done_callback(_take_error)
            self._last_connections.add(opening)

    async def stop(self, grace_s: float) -> None:
        """End all connections, after at most `grace_s` seconds for requests that arrive and for responses that are being sent."""
        self.drain()
        deadline = time.monotonic() + grace_s
        # The connections that were accepted last exist after the next run of the event loop.
        await asyncio.sleep(_LOOK_S)
        while self._is_busy() and time.monotonic() < deadline:
            await asyncio.sleep(_LOOK_S)
        for connection in [*self._state.connections]:
            if connection.transport is not None:
                connection.transport.abort()
        for task in [*self._state.tasks, *self._last_connections]:
            task.cancel()

    def _is_busy(self) -> bool:
        """Return true while a request is answered, or a client that has connected may still send one."""
        return bool(self._state.tasks) or any(connection.awaits_request for connection in self._opened)


def _take_error(opening: asyncio.Task[Any]) -> None:
    """Take the error of a connection that was not opened: the handshake of its client has failed."""
    if not opening.cancelled() and opening.exception() is not None:
        log.debug("a connection was not opened: %s", opening.exception())


def _has_unread(transport: asyncio.BaseTransport) -> bool:
    """Return true if the operating system has bytes of a connection that were not read."""
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
    return bool(poll.poll(0))


def _refuse_connections(listening: socket.socket) -> None:
    """Let Linux ignore new connections, so that none arrives between the last that is accepted and the end of the socket.

    Their clients try again a second later, when the address refuses them. Elsewhere such a connection is reset.
    """
    if not sys.platform.startswith("linux"):
        return
    # A filter of packets: if only SYN is set of SYN and ACK in the flags of the header, take 0 bytes of the packet.
    load_flags, mask, if_equal, take = 0x30, 0x54, 0x15, 0x06
    steps = ((load_flags, 0, 0, 13), (mask, 0, 0, 0x12), (if_equal, 0, 1, 0x02), (take, 0, 0, 0), (take, 0, 0, 0xFFFF))
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    with suppress(OSError):  # a sandbox without filters
        listening.setsockopt(
            socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(steps), ctypes.addressof(program))
        )

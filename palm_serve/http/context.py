"""One HTTP request as the context of a call."""

import asyncio
import re
import time
import urllib.parse
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import Any, NoReturn

from palm_serve.errors import DeadlineExceeded, InvalidRequest
from palm_serve.http.decompression import BodyTooLarge, Decompressor, UnsupportedEncoding, too_large
from palm_serve.http.statuses import HTTP_STATUSES, HttpFailure
from palm_serve.rpc.call_context import CallAborted
from palm_serve.rpc.messages.status import failure

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

TRANSPORT = "transport"
"""Key of the connection's asyncio transport in the state of a request."""
_JSON = "application/json"
_TIMEOUT_KEY = "connect-timeout-ms"
_MAX_TIMEOUT_DIGITS = 10
_GRPC_TIMEOUT_KEY = "grpc-timeout"
_GRPC_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])")
_UNITS_S = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


class HttpContext:
    """Context of one call over HTTP, and what is known of its response. It is a `rpc.call_context.CallContext`.

    Args:
        scope: the request, as ASGI describes it.
        receive: receives the body.
        max_bytes: largest body, also where it is compressed.
    """

    def __init__(self, scope: Scope, receive: Receive, max_bytes: int) -> None:
        self.scope = scope
        self.headers: dict[str, str] = {}
        for key, value in scope["headers"]:
            self.headers.setdefault(key.decode("latin-1"), value.decode("latin-1"))
        self.max_bytes = max_bytes
        self.status = 200
        self.media_type = _JSON
        self.response_headers: list[tuple[str, str]] = []
        self.failure: HttpFailure | None = None
        self._receive = receive
        self._deadline = _deadline(self.headers)
        self._task = asyncio.current_task()
        self._reading = False
        self._reading_began = False
        self._body: bytes | None = None
        self._body_status = 0

    @property
    def reading_began(self) -> bool:
        """True once the call has waited for its body."""
        return self._reading_began

    @property
    def declared_bytes(self) -> int | None:
        """Length of the body, if it is known before the body is read, and is that of what the body holds."""
        if "transfer-encoding" in self.headers or self.headers.get("content-encoding", "identity") != "identity":
            return None
        return int(self.headers.get("content-length", 0))

    @property
    def body_is_read(self) -> bool:
        """True once the body was read whole."""
        return self._body is not None

    @property
    def path_values(self) -> dict[str, str]:
        """Values of the placeholders of the route's path."""
        values: dict[str, str] = self.scope["path_params"]
        return values

    @property
    def query(self) -> dict[str, str]:
        """Values of the query. The first one of each name counts."""
        values: dict[str, str] = {}
        for name, value in urllib.parse.parse_qsl(self.scope["query_string"].decode("latin-1"), keep_blank_values=True):
            values.setdefault(name, value)
        return values

    def peer(self) -> str:
        """Return the address of the client in the form of gRPC."""
        client = self.scope.get("client")
        if client is None:
            return "unknown"
        host, port = client
        return f"ipv6:%5B{host}%5D:{port}" if ":" in host else f"ipv4:{host}:{port}"

    def peer_identities(self) -> Iterable[bytes] | None:
        """Return the names in the client's certificate: its alternative names, or else its common name."""
        transport = self.scope["state"].get(TRANSPORT)
        certificate = None if transport is None else transport.get_extra_info("peercert")
        if not certificate:
            return None
        names = [value.encode() for _, value in certificate.get("subjectAltName", ())]
        if names:
            return names
        for relative_name in certificate.get("subject", ()):
            names += [value.encode() for key, value in relative_name if key == "commonName"]
        return names

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]]:
        """Return the headers."""
        return self.headers.items()

    def time_remaining(self) -> float | None:
        """Return the seconds until the deadline of the client. None: it has none."""
        return None if self._deadline is None else self._deadline - time.monotonic()

    async def read(self) -> bytes:
        """Return the body, decompressed.

        Raises:
            InvalidRequest: it is too large, or not compressed as it says.
            CallAborted: `abort` was called by another task meanwhile.
        """
        if self._body is not None:
            return self._body
        self._reading = self._reading_began = True
        try:
            self._body = await self._read_body()
        except asyncio.CancelledError:
            if self.failure is None or self._task is None:
                raise
            self._task.uncancel()
            raise CallAborted from None
        except BodyTooLarge:
            self._body_status = 413
            raise
        except UnsupportedEncoding:
            self._body_status = 415
            raise
        finally:
            self._reading = False
        return self._body

    async def _read_body(self) -> bytes:
        declared = self.headers.get("content-length")
        if declared is not None and int(declared) > self.max_bytes:
            raise too_large(self.max_bytes)
        encoding = self.headers.get("content-encoding", "identity")
        decompressor = None if encoding == "identity" else Decompressor(encoding, self.max_bytes)
        body = bytearray()
        size = 0
        while True:
            message = await self._receive()
            if message["type"] != "http.request":
                raise asyncio.CancelledError  # the client has disconnected
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > self.max_bytes:
                raise too_large(self.max_bytes)
            body += chunk if decompressor is None or not chunk else decompressor.decompress(chunk)
            if not message.get("more_body", False):
                break
        if decompressor is not None:
            decompressor.finish()
        return bytes(body)

    async def abort(self, code: Any, details: str, trailing_metadata: Sequence[tuple[str, str | bytes]]) -> NoReturn:
        """End the call with a status, see `CallContext.abort`.

        Args:
            code: the status of gRPC.
            details: message for the client.
            trailing_metadata: metadata for the client.

        Raises:
            CallAborted: always.
        """
        if self._task is not None and asyncio.current_task() is not self._task:
            if not self._reading:
                raise CallAborted  # the message has arrived meanwhile, and the call goes on
            self._task.cancel()
        status = HTTP_STATUSES[code.name]
        if code.name == "INVALID_ARGUMENT":
            status = self._body_status or status
        self.failure = HttpFailure(status, code.name, details, trailing_metadata)
        raise CallAborted

    def set_trailing_metadata(self, trailing_metadata: Sequence[tuple[str, str | bytes]]) -> None:
        """Set headers of the response."""
        for key, value in trailing_metadata:
            if isinstance(value, str):
                self.response_headers.append((key, value))

    def expired(self) -> HttpFailure:
        """Return the failure of a call whose deadline has passed."""
        failed = failure(DeadlineExceeded("the deadline passed before the answer. Allow more time."), "")
        return HttpFailure(HTTP_STATUSES[failed.code.name], failed.code.name, failed.message)


def _deadline(headers: Mapping[str, str]) -> float | None:
    """Return the deadline on the clock of `time.monotonic()`. None: the client has none. Raises InvalidRequest."""
    milliseconds = headers.get(_TIMEOUT_KEY)
    if milliseconds is not None:
        if not milliseconds.isdecimal() or len(milliseconds) > _MAX_TIMEOUT_DIGITS:
            raise InvalidRequest(
                f"Connect-Timeout-Ms must be a number of at most {_MAX_TIMEOUT_DIGITS} digits, got '{milliseconds[:32]}'. Correct it."
            )
        return time.monotonic() + int(milliseconds) / 1000
    timeout = headers.get(_GRPC_TIMEOUT_KEY)
    if timeout is None:
        return None
    match = _GRPC_TIMEOUT.fullmatch(timeout)
    if match is None:
        raise InvalidRequest(
            f"grpc-timeout must be at most 8 digits and a unit (H, M, S, m, u or n), got '{timeout[:32]}'. Correct it."
        )
    return time.monotonic() + int(match[1]) * _UNITS_S[match[2]]

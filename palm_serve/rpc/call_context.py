"""The context of a call, as the server needs it from a transport.

Two transports have one: gRPC, whose `grpc.aio.ServicerContext` is such a context as it is, and HTTP (`palm_serve.http`).
Identity, limits, deadlines, request ids, draining and records depend on nothing else, so they are the same code for both.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NoReturn, Protocol

import grpc

CallAborted: type[Exception] = grpc.aio.AbortError
"""Raised by `CallContext.abort`. It ends the handler of the call."""
NO_MESSAGE = grpc.aio.EOF
"""Returned by `CallContext.read` where the call has no message."""


class CallContext(Protocol):
    """One call of a transport."""

    def peer(self) -> str:
        """Return the address of the client: `ipv4:HOST:PORT`, `ipv6:%5BHOST%5D:PORT` or `unix:PATH`."""
        ...

    def peer_identities(self) -> Iterable[bytes] | None:
        """Return the names in the client's certificate. None: it has none."""
        ...

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]] | None:
        """Return the metadata of the call, with names in lower case."""
        ...

    def time_remaining(self) -> float | None:
        """Return the seconds until the deadline. None: the call has none."""
        ...

    async def read(self) -> Any:
        """Return the serialized message of the call, or NO_MESSAGE.

        Raises:
            CallAborted: `abort` was called meanwhile.
        """
        ...

    async def abort(
        self, code: grpc.StatusCode, details: str, trailing_metadata: Sequence[tuple[str, str | bytes]]
    ) -> NoReturn:
        """End the call with a status. Another task may call this while the handler reads, whose read it ends.

        Args:
            code: the status.
            details: message for the client.
            trailing_metadata: metadata for the client.

        Raises:
            CallAborted: always.
        """
        ...

    def set_trailing_metadata(self, trailing_metadata: Sequence[tuple[str, str | bytes]]) -> None:
        """Set metadata that is sent with the response."""
        ...

"""Calls through Ray Serve as contexts of a call: `rpc.call_context.CallContext`."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, NoReturn, TypeAlias

import grpc

from palm_serve.rpc.call_context import NO_MESSAGE, CallAborted

TIMEOUT_KEY = "x-palm-timeout-ms"
"""Metadata of `palm_serve.client`: milliseconds until the deadline. Ray does not tell a deployment the deadline of gRPC."""
_MAX_TIMEOUT_DIGITS = 10

Metadata: TypeAlias = Sequence[tuple[str, str | bytes]]


class UnaryContext:
    """A call with one message.

    A status is set on Ray's context and not raised, because Ray sends the trailing metadata of calls that return only.

    Args:
        ray_context: `ray.serve.grpc_util.RayServegRPCContext` of the call.
        message: the serialized message.
        max_bytes: largest message.
    """

    def __init__(self, ray_context: Any, message: bytes, max_bytes: int) -> None:
        self._ray_context = ray_context
        self._message = message
        self._max_bytes = max_bytes
        self._deadline = _deadline(ray_context.invocation_metadata())
        self.has_ended = False
        """True once the call has a status, after which its handler ends with CallAborted or CancelledError."""

    def peer(self) -> str:
        """Return the address of Ray's ingress."""
        peer: str = self._ray_context.peer()
        return peer

    def peer_identities(self) -> None:
        """Return None: Ray's ingress has no certificates of clients."""

    def invocation_metadata(self) -> Metadata:
        """Return the metadata of the call."""
        metadata: Metadata = self._ray_context.invocation_metadata()
        return metadata

    def time_remaining(self) -> float | None:
        """Return the seconds until the deadline that the client has told. None: it has told none."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    async def read(self) -> Any:
        """Return the message. Raises CancelledError if it is too large."""
        self._check_size(self._message)
        return self._message

    async def abort(self, code: grpc.StatusCode, details: str, trailing_metadata: Metadata) -> NoReturn:
        """End the call with a status.

        Args:
            code: the status.
            details: message for the client.
            trailing_metadata: metadata for the client.

        Raises:
            CallAborted: always.
        """
        self._end(code, details)
        self.set_trailing_metadata(trailing_metadata)
        raise CallAborted

    def set_trailing_metadata(self, trailing_metadata: Metadata) -> None:
        """Set metadata that is sent with the response."""
        self._ray_context.set_trailing_metadata(list(trailing_metadata))

    def _end(self, code: grpc.StatusCode, details: str) -> None:
        self.has_ended = True
        self._ray_context.set_code(code)
        self._ray_context.set_details(details)

    def _check_size(self, message: bytes) -> None:
        # As gRPC does, which cancels the handler: Ray's limit is 2 GiB.
        if len(message) > self._max_bytes:
            details = f"SERVER: Received message larger than max ({len(message)} vs. {self._max_bytes})"
            self._end(grpc.StatusCode.RESOURCE_EXHAUSTED, details)
            raise asyncio.CancelledError


class StreamContext(UnaryContext):
    """A call with streams of messages.

    Args:
        ray_context: `ray.serve.grpc_util.RayServegRPCContext` of the call.
        messages: the serialized messages.
        max_bytes: largest message.
    """

    def __init__(self, ray_context: Any, messages: AsyncIterator[bytes], max_bytes: int) -> None:
        super().__init__(ray_context, b"", max_bytes)
        self._messages = messages
        self._aborted = asyncio.Event()
        self._responses: asyncio.Queue[bytes] = asyncio.Queue(1)
        """One at most, so that a client that does not read holds its stream up and not the memory."""

    async def read(self) -> Any:
        """Return the next message, or NO_MESSAGE.

        Raises:
            CallAborted: `abort` was called meanwhile.
            CancelledError: the message is too large.
        """
        reading = asyncio.ensure_future(anext(self._messages, None))
        aborting = asyncio.ensure_future(self._aborted.wait())
        try:
            await asyncio.wait((reading, aborting), return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                raise CallAborted
            message = reading.result()
        finally:
            reading.cancel()
            aborting.cancel()
        if message is None:
            return NO_MESSAGE
        self._check_size(message)
        return message

    async def abort(self, code: grpc.StatusCode, details: str, trailing_metadata: Metadata) -> NoReturn:
        """End the call with a status, see `UnaryContext.abort`. Another task may call this while the handler reads.

        Args:
            code: the status.
            details: message for the client.
            trailing_metadata: metadata for the client.

        Raises:
            CallAborted: always.
        """
        self._aborted.set()
        await super().abort(code, details, trailing_metadata)

    async def write(self, message: bytes) -> None:
        """Send a response. Waits until the one before is sent."""
        await self._responses.put(message)

    async def responses(self, handling: "asyncio.Task[None]") -> AsyncIterator[bytes]:
        """Yield the responses of a handler until it ends. Raises what the handler raises."""
        waiting: asyncio.Task[bytes] | None = None
        try:
            while True:
                waiting = asyncio.ensure_future(self._responses.get())
                await asyncio.wait((waiting, handling), return_when=asyncio.FIRST_COMPLETED)
                if waiting.done():
                    yield waiting.result()
                    continue
                waiting.cancel()
                if self._responses.empty():
                    await handling
                    return
        finally:
            if waiting is not None:
                waiting.cancel()


def _deadline(metadata: Metadata) -> float | None:
    """Return the deadline on the clock of `time.monotonic()`. None: there is none, or no number."""
    for key, value in metadata:
        if key == TIMEOUT_KEY and isinstance(value, str) and value.isdecimal() and len(value) <= _MAX_TIMEOUT_DIGITS:
            return time.monotonic() + int(value) / 1000
    return None

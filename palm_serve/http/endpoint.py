"""A route: runs one call, and sends its answer or its error in the words of its protocol."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from palm_serve.errors import InvalidRequest
from palm_serve.http.context import HttpContext, Receive, Scope, Send
from palm_serve.http.statuses import HTTP_STATUSES, HttpFailure
from palm_serve.rpc.call_context import CallAborted
from palm_serve.rpc.messages.status import failure

_JSON = "application/json"
_SHORT_BYTES = 64 * 1024
"""Length up to which a body is read although its request is refused."""
_DISCARDED_BYTES = 1024 * 1024
"""Limit of what is read of a refused request."""
_DISCARD_S = 1.0
"""Limit of the time for which it is read."""

Answer = Callable[[HttpContext], Awaitable[bytes]]
"""Answers a request. It raises CallAborted once the call has ended with the failure of its context."""
DescribeError = Callable[[HttpFailure], bytes]
"""Returns the body of a response to a failed call, as JSON."""


class Endpoint:
    """ASGI application of one route.

    Args:
        answer: answers a request.
        describe_error: describes an error as the clients of the route expect it.
        max_bytes: largest body of a request.
        error_status: HTTP status of every error. None: that of its code.
        error_type: content type of errors.
    """

    def __init__(
        self,
        answer: Answer,
        describe_error: DescribeError,
        max_bytes: int,
        error_status: int | None = None,
        error_type: str = _JSON,
    ) -> None:
        self._error_status = error_status
        self._error_type = error_type
        self._answer = answer
        self._describe_error = describe_error
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        Args:
            scope: the request, as ASGI describes it.
            receive: receives its body.
            send: sends the response.
        """
        try:
            context = HttpContext(scope, receive, self._max_bytes)
        except InvalidRequest as error:
            failed = failure(error, "")
            bad_header = HttpFailure(HTTP_STATUSES[failed.code.name], failed.code.name, failed.message)
            await self._refuse(scope, receive, send, bad_header)
            return
        try:
            async with asyncio.timeout(context.time_remaining()):
                body = await self._answer(context)
        except CallAborted:
            assert context.failure is not None
            await self._send_failure(context, receive, send, context.failure)
        except TimeoutError:
            await self._send_failure(context, receive, send, context.expired())
        else:
            await send_response(send, context.status, body, context.media_type, context.response_headers)

    async def _send_failure(self, context: HttpContext, receive: Receive, send: Send, failed: HttpFailure) -> None:
        if context.body_is_read:
            status = self._error_status or failed.status
            await send_response(send, status, self._describe_error(failed), self._error_type, failed.headers())
        else:
            await self._refuse(context.scope, receive, send, failed, at_once=context.reading_began)

    async def _refuse(
        self, scope: Scope, receive: Receive, send: Send, failed: HttpFailure, at_once: bool = False
    ) -> None:
        status = self._error_status or failed.status
        body = self._describe_error(failed)
        await refuse(scope, receive, send, status, body, failed.headers(), at_once, self._error_type)


async def send_response(
    send: Send,
    status: int,
    body: bytes,
    media_type: str,
    headers: Sequence[tuple[str, str]] = (),
    unfinished: bool = False,
) -> None:
    """Send a whole response.

    Args:
        send: function of ASGI.
        status: HTTP status.
        body: body of the response.
        media_type: type of the body.
        headers: further headers.
        unfinished: leave the response open, although all of it is sent.
    """
    encoded = [(b"content-type", media_type.encode("latin-1")), (b"content-length", str(len(body)).encode())]
    for key, value in headers:
        encoded.append((key.encode("latin-1"), value.encode("latin-1")))
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body, "more_body": unfinished})


async def refuse(
    scope: Scope,
    receive: Receive,
    send: Send,
    status: int,
    body: bytes,
    headers: Sequence[tuple[str, str]] = (),
    at_once: bool = False,
    media_type: str = _JSON,
) -> None:
    """Send an error to a client whose request was not read, and that may still send it.

    A connection that is closed while bytes arrive is reset, and the client loses the response. So a short body is read
    before the response, after which the connection can be used again. Of a long one, a part is read after the response.

    Args:
        scope: the request, as ASGI describes it.
        receive: receives its body.
        send: sends the response.
        status: HTTP status.
        body: body of the response.
        headers: further headers.
        at_once: send the response first, because the body did not arrive in time.
        media_type: type of the response.
    """
    if not at_once and _is_short(scope) and await _discard(receive):
        await send_response(send, status, body, media_type, headers)
        return
    await send_response(send, status, body, media_type, [*headers, ("connection", "close")], unfinished=True)
    await _discard(receive)
    await send({"type": "http.response.body", "body": b""})


def _is_short(scope: Scope) -> bool:
    """Return true if a request says that its body is short, or that it has none."""
    length = 0
    for key, value in scope["headers"]:
        if key == b"transfer-encoding":
            return False
        if key == b"content-length":
            length = int(value)
    return length <= _SHORT_BYTES


async def _discard(receive: Receive) -> bool:
    """Read a body for a moment. Return true if it has ended."""
    size = 0
    try:
        async with asyncio.timeout(_DISCARD_S):
            while size <= _DISCARDED_BYTES:
                message = await receive()
                if message["type"] != "http.request":
                    return False
                size += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return True
    except TimeoutError:
        return False
    return False

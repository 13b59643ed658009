"""What the streams of all doors share: answers as they are ready, a bound on what is in flight, an end when the server drains."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from google.protobuf.message import Message

from palm_serve.errors import PalmServeError
from palm_serve.rpc.call_handling import Send
from palm_serve.rpc.lifecycle import Lifecycle

_ITEMS_IN_A_ROW = 32


async def answer_each(
    messages: AsyncIterator[bytes],
    answer: Callable[[bytes], Awaitable[Message]],
    send: Send,
    limit: int,
    lifecycle: Lifecycle,
) -> None:
    """Sends the answer to each message as it is ready. With `limit` messages in flight the stream is not read.

    `answer` makes an answer of every error that is one message's own. What ends the stream
    (the server drains: Unavailable; the token is revoked: Unauthenticated) is raised after what was read is answered.
    """
    free, sending, ended = asyncio.Semaphore(limit), asyncio.Lock(), None

    async def handle(data: bytes) -> None:
        try:
            item = await answer(data)
            async with sending:
                await send(item)
        finally:
            free.release()

    async with asyncio.TaskGroup() as running:
        try:
            async with lifecycle.stream():
                async for data in messages:
                    await free.acquire()
                    running.create_task(handle(data))
        except PalmServeError as error:
            ended = error
    if ended is not None:
        raise ended


async def breathe(number: int) -> None:
    """Lets other calls in between the items of a large batch, which would hold the event loop for 0.1 s."""
    if number % _ITEMS_IN_A_ROW == _ITEMS_IN_A_ROW - 1:
        await asyncio.sleep(0)

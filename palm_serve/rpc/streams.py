"""Message streams of all services: concurrent responses, a limit of unanswered messages, an end when the server drains."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from google.protobuf.message import Message

from palm_serve.batching.loop_turns import next_turn
from palm_serve.batching.patience import patience_s
from palm_serve.errors import Overloaded, PalmServeError
from palm_serve.rpc.call_handling import Send
from palm_serve.rpc.lifecycle import Lifecycle

_ITEMS_PER_TURN = 16


async def answer_each(
    messages: AsyncIterator[bytes],
    answer: Callable[[bytes], Awaitable[Message]],
    send: Send,
    limit: int,
    lifecycle: Lifecycle,
) -> None:
    """Answer the messages of a stream concurrently, each as soon as its response is ready.

    Args:
        messages: the messages of the stream.
        answer: returns the response to a message. An error of a single message must be part of the response.
        send: sends a response.
        limit: number of unanswered messages at which the stream is not read further.
        lifecycle: ends the stream when the server drains.

    Raises:
        PalmServeError: after all messages that were read are answered. Unavailable if the server drains, Unauthenticated if
            the token was revoked.
    """
    slots = asyncio.Semaphore(limit)
    send_lock = asyncio.Lock()
    stream_error: PalmServeError | None = None

    async def handle(data: bytes) -> None:
        try:
            response = await answer(data)
            async with send_lock:
                await send(response)
        finally:
            slots.release()

    async with asyncio.TaskGroup() as tasks:
        try:
            async with lifecycle.stream():
                async for data in messages:
                    await slots.acquire()
                    tasks.create_task(handle(data))
        except PalmServeError as error:
            stream_error = error
    if stream_error is not None:
        raise stream_error


async def pause_when_refused(error: Exception, deadline: float | None) -> None:
    """Wait a moment before an item of a stream is refused because the queue is full.

    The stream is not read further meanwhile, so that a client that sends more than the engine can answer costs little.

    Args:
        error: error of the item. Only an Overloaded is waited for.
        deadline: of the stream, in seconds on the clock of `time.monotonic()`. None: none.
    """
    if isinstance(error, Overloaded):
        await asyncio.sleep(patience_s(deadline))


async def yield_to_event_loop(index: int) -> None:
    """Let other calls run after every 16 items of a batch. A large batch would block the event loop for 0.1 s.

    Batches take turns, so that many of them do not block it for longer than one.
    """
    if index % _ITEMS_PER_TURN == _ITEMS_PER_TURN - 1:
        await next_turn()

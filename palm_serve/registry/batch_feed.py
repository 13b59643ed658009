"""Answers of one batch of requests, which are queued as the model's queue has room for them."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from palm_serve.batching.loop_turns import next_turn
from palm_serve.errors import Overloaded, PalmServeError, Unmeetable
from palm_serve.pipeline import PreparedRequest
from palm_serve.registry.text_preparation import TextPreparation
from palm_serve.types import Prediction, TextRequest

_LOOK_AGAIN_S = 0.05
_ITEMS_PER_TURN = 16


class RoomWaiters:
    """Batches that have begun and wait for room in the queue of one model, in order."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def wait(self) -> None:
        """Wait until a request of any batch is done. Also end after a while, because others free places, too."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        timer = asyncio.get_running_loop().call_later(_LOOK_AGAIN_S, _end_wait, future)
        try:
            await future
        finally:
            timer.cancel()
            if future in self._waiting:
                self._waiting.remove(future)

    def wake_next(self) -> None:
        """Wake the batch that has waited longest."""
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)
                return


def _end_wait(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


class BatchFeed:
    """Answers the requests of one batch.

    A batch that has begun is answered whole: where the queue is full, the rest waits for room. So no more is tokenized
    than the queue takes. A batch of which nothing can be queued is refused at once.

    Args:
        requests: requests of one client, at least one.
        preparation: tokenizes them.
        room: returns how many requests like this one the queue takes now.
        answer: queues a request and returns its answer.
        waiters: the batches that wait for room in the same queue.
    """

    def __init__(
        self,
        requests: Sequence[TextRequest],
        preparation: TextPreparation,
        room: Callable[[TextRequest], int],
        answer: Callable[[PreparedRequest], Coroutine[Any, Any, Prediction]],
        waiters: RoomWaiters,
    ) -> None:
        self._requests = requests
        self._preparation = preparation
        self._room = room
        self._answer = answer
        self._waiters = waiters
        self._outcomes: dict[int, Prediction | PalmServeError] = {}
        self._displaced: list[tuple[int, PreparedRequest]] = []
        """Requests that have lost their places in the queue."""
        self._begun = False
        """True once a request was queued."""
        self._running = 0
        self._progress = asyncio.Event()

    async def run(self) -> list[Prediction | PalmServeError]:
        """Return the answer or the error of each request, in order."""
        async with asyncio.TaskGroup() as tasks:
            start = 0
            while start < len(self._requests):
                room = await self._wait_for_room(self._requests[start])
                chunk = self._preparation.first_chunk(self._requests[start:], room)
                outcomes = await self._preparation.prepare(chunk, chunk[0].client)
                if len(chunk) < len(self._requests):
                    # Batches take turns, so that each sees the room that those before it have left.
                    await next_turn()
                for index, outcome in enumerate(outcomes, start):
                    if index > start and index % _ITEMS_PER_TURN == 0:
                        await next_turn()
                    if isinstance(outcome, PreparedRequest):
                        self._queue(tasks, index, outcome)
                    else:
                        self._outcomes[index] = outcome
                start += len(chunk)
            await self._queue_displaced(tasks)
        return [self._outcomes[index] for index in range(len(self._requests))]

    async def _wait_for_room(self, request: TextRequest) -> int:
        """Wait until the queue has room, if the batch has begun. Return the room."""
        if self._running:
            await asyncio.sleep(0)  # the requests that were queued last take their places
        while (room := self._room(request)) <= 0 and self._begun:
            await self._waiters.wait()
        return room

    async def _queue_displaced(self, tasks: asyncio.TaskGroup) -> None:
        """Queue the requests again that have lost their places, until all of the batch is answered."""
        while self._running or self._displaced:
            if not self._displaced:
                self._progress.clear()
                await self._progress.wait()
                continue
            room = await self._wait_for_room(self._displaced[0][1].request)
            await next_turn()
            displaced = self._displaced
            self._displaced = displaced[room:]
            for index, prepared in displaced[:room]:
                self._queue(tasks, index, prepared)

    def _queue(self, tasks: asyncio.TaskGroup, index: int, prepared: PreparedRequest) -> None:
        self._begun = True
        self._running += 1
        tasks.create_task(self._answer_one(index, prepared))

    async def _answer_one(self, index: int, prepared: PreparedRequest) -> None:
        try:
            self._outcomes[index] = await self._answer(prepared)
        except Unmeetable as error:
            self._outcomes[index] = error
        except Overloaded:
            self._displaced.append((index, prepared))
        except PalmServeError as error:
            self._outcomes[index] = error
        finally:
            self._running -= 1
            self._progress.set()
            self._waiters.wake_next()

"""Tokenization of batches: bounded, refused with the queue, and stopped when the caller leaves."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from palm_serve.errors import Overloaded, PalmServeError, Unmeetable
from palm_serve.registry.text_preparation import TextPreparation
from palm_serve.types import Priority, TextRequest

MAX_WAITING = 256


class Tokenizer:
    """A tokenizer that notes its chunks and waits until it may go on."""

    def __init__(self, open_at_once: bool = True) -> None:
        self.chunks: list[int] = []
        self.go_on = threading.Event()
        if open_at_once:
            self.go_on.set()

    def prepare_many(self, requests: Sequence[TextRequest]) -> list[Any]:
        self.chunks.append(len(requests))
        assert self.go_on.wait(60)
        return [request.text.upper() for request in requests]


def requests(count: int, text: str = "a") -> list[TextRequest]:
    return [TextRequest(f"{text}{number}", ()) for number in range(count)]


def accept(request: TextRequest) -> None:
    """Accept every request."""


def preparation_of(
    tokenizer: Tokenizer,
    refusal: Callable[[TextRequest], PalmServeError | None] = accept,
    max_waiting: int = MAX_WAITING,
    counted: list[PalmServeError] | None = None,
) -> TextPreparation:
    counts = [] if counted is None else counted
    return TextPreparation(tokenizer.prepare_many, refusal, counts.append, max_waiting)


async def prepare(preparation: TextPreparation, batch: list[TextRequest], client: str = "a") -> list[Any]:
    """Tokenize a batch chunk by chunk, as if the queue had any room."""
    outcomes: list[Any] = []
    while batch:
        chunk = preparation.first_chunk(batch, 0)
        outcomes += await preparation.prepare(chunk, client)
        batch = batch[len(chunk) :]
    return outcomes


async def until(condition: Any) -> None:
    for _ in range(6_000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError


def test_batch_is_tokenized_in_chunks_in_order() -> None:
    tokenizer = Tokenizer()
    preparation = preparation_of(tokenizer)
    prepared = asyncio.run(prepare(preparation, requests(150)))
    assert prepared == [f"A{number}" for number in range(150)]
    assert tokenizer.chunks == [64, 64, 22]


def test_long_texts_make_short_chunks() -> None:
    tokenizer = Tokenizer()
    preparation = preparation_of(tokenizer)
    batch = requests(5, "x" * 60_000) + requests(1, "y" * 300_000) + requests(1)
    prepared = asyncio.run(prepare(preparation, batch))
    assert len(prepared) == 7
    assert tokenizer.chunks == [1] * 7


def test_chunk_is_no_larger_than_the_room() -> None:
    preparation = preparation_of(Tokenizer())
    assert [len(preparation.first_chunk(requests(100), room)) for room in (1, 7, 64, 80)] == [1, 7, 64, 64]


def test_requests_that_the_queue_refuses_are_not_tokenized() -> None:
    """The queue is asked once for each priority and deadline, and each request counts."""
    tokenizer = Tokenizer()
    refusal = Unmeetable("too late")
    asked: list[TextRequest] = []
    counted: list[PalmServeError] = []

    def refuse(request: TextRequest) -> PalmServeError | None:
        asked.append(request)
        return refusal if request.priority is Priority.BATCH else None

    mixed = [TextRequest("a", (), priority=Priority(1 + number % 2)) for number in range(60)]
    prepared = asyncio.run(prepare(preparation_of(tokenizer, refuse, counted=counted), mixed))
    assert prepared == ["A", refusal] * 30
    assert tokenizer.chunks == [30]
    assert len(asked) == 2
    assert counted == [refusal] * 30


def test_caller_that_leaves_stops_the_rest() -> None:
    async def scenario() -> None:
        tokenizer = Tokenizer(open_at_once=False)
        preparation = preparation_of(tokenizer)
        task = asyncio.create_task(prepare(preparation, requests(200)))
        await until(lambda: tokenizer.chunks)
        task.cancel()
        await asyncio.wait([task])
        tokenizer.go_on.set()
        # Its texts are not counted any more: the same client may have as many as before.
        assert len(await prepare(preparation, requests(128))) == 128
        assert tokenizer.chunks == [64, 64, 64]

    asyncio.run(scenario())


def test_client_may_fill_half_and_others_still_begin() -> None:
    async def scenario() -> list[list[PalmServeError | Any]]:
        tokenizer = Tokenizer(open_at_once=False)
        preparation = preparation_of(tokenizer)
        running = [asyncio.create_task(preparation.prepare(requests(64), "greedy")) for _ in range(2)]
        await until(lambda: sum(tokenizer.chunks) == 128)
        refused = await preparation.prepare(requests(64), "greedy")
        other = asyncio.create_task(preparation.prepare(requests(64), "other"))
        await asyncio.sleep(0)
        tokenizer.go_on.set()
        return [refused, await other, *await asyncio.gather(*running)]

    refused, other, *running = asyncio.run(scenario())
    assert all(isinstance(outcome, Overloaded) for outcome in refused)
    for answered in (other, *running):
        assert answered == [f"A{number}" for number in range(64)]


@pytest.mark.parametrize("max_waiting", [1, 3])
def test_batch_alone_is_never_refused(max_waiting: int) -> None:
    preparation = preparation_of(Tokenizer(), max_waiting=max_waiting)
    assert asyncio.run(prepare(preparation, requests(200)))[-1] == "A199"

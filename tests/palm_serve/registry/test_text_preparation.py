"""Tokenization of batches: bounded, refused with the queue, and stopped when the caller leaves."""

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from palm_serve.errors import Overloaded, PalmServeError, Unmeetable
from palm_serve.registry.text_preparation import TextPreparation
from palm_serve.types import TextRequest

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


async def until(condition: Any) -> None:
    for _ in range(6_000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError


def test_batch_is_tokenized_in_chunks_in_order() -> None:
    tokenizer = Tokenizer()
    preparation = TextPreparation(tokenizer.prepare_many, accept, MAX_WAITING)
    prepared = asyncio.run(preparation.prepare(requests(150), "a"))
    assert prepared == [f"A{number}" for number in range(150)]
    assert tokenizer.chunks == [64, 64, 22]


def test_long_texts_make_short_chunks() -> None:
    tokenizer = Tokenizer()
    preparation = TextPreparation(tokenizer.prepare_many, accept, MAX_WAITING)
    prepared = asyncio.run(
        preparation.prepare(requests(5, "x" * 60_000) + requests(1, "y" * 300_000) + requests(1), "a")
    )
    assert len(prepared) == 7
    assert tokenizer.chunks == [1] * 7


def test_chunk_that_the_queue_refuses_is_not_tokenized() -> None:
    tokenizer = Tokenizer()
    refusal = Unmeetable("too late")

    def check(request: TextRequest) -> None:
        if request.text in {f"a{number}" for number in range(64, 128)}:
            raise refusal

    prepared = asyncio.run(TextPreparation(tokenizer.prepare_many, check, MAX_WAITING).prepare(requests(150), "a"))
    assert prepared[:64] == [f"A{number}" for number in range(64)]
    assert prepared[64:128] == [refusal] * 64
    assert tokenizer.chunks == [64, 22]


def test_caller_that_leaves_stops_the_rest() -> None:
    async def scenario() -> None:
        tokenizer = Tokenizer(open_at_once=False)
        preparation = TextPreparation(tokenizer.prepare_many, accept, MAX_WAITING)
        task = asyncio.create_task(preparation.prepare(requests(200), "a"))
        await until(lambda: tokenizer.chunks)
        task.cancel()
        await asyncio.wait([task])
        tokenizer.go_on.set()
        # Its texts are not counted any more: the same client may have as many as before.
        assert len(await preparation.prepare(requests(128), "a")) == 128
        assert tokenizer.chunks == [64, 64, 64]

    asyncio.run(scenario())


def test_client_may_fill_half_and_others_still_begin() -> None:
    async def scenario() -> list[list[PalmServeError | Any]]:
        tokenizer = Tokenizer(open_at_once=False)
        preparation = TextPreparation(tokenizer.prepare_many, accept, MAX_WAITING)
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
    preparation = TextPreparation(Tokenizer().prepare_many, accept, max_waiting)
    assert asyncio.run(preparation.prepare(requests(200), "a"))[-1] == "A199"

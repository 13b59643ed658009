"""Batches are fed to the queue as it has room: answered whole, or refused before anything is tokenized."""

import asyncio
import time
from collections.abc import Sequence

import pytest

from palm_serve.batching.patience import patience_s
from palm_serve.errors import EngineError, Overloaded, PalmServeError, Unmeetable
from palm_serve.pipeline import PreparedRequest
from palm_serve.registry.batch_feed import BatchFeed, RoomWaiters
from palm_serve.registry.text_preparation import TextPreparation
from palm_serve.types import Encoding, Prediction, TextRequest, Timings

ENCODING = Encoding([1], [0], [(0, 0)], [0], False, 0)


class Model:
    """A queue with places, whose engine answers a few requests in each pass of the event loop."""

    def __init__(self, places: int, rows: int = 3) -> None:
        self.places = places
        self.rows = rows
        self.queue: list[tuple[PreparedRequest, asyncio.Future[Prediction]]] = []
        self.longest_queue = 0
        self.tokenized = 0
        self.counted: list[PalmServeError] = []
        self.failing: set[str] = set()
        self.waiters = RoomWaiters()
        self.preparation = TextPreparation(self.prepare_many, self.refusal, self.counted.append, 1000)

    def prepare_many(self, requests: Sequence[TextRequest]) -> list[PreparedRequest]:
        self.tokenized += len(requests)
        return [PreparedRequest(request, ENCODING, (), 1) for request in requests]

    def refusal(self, request: TextRequest) -> PalmServeError | None:
        return None if self.room(request) > 0 else Overloaded("full", 0.1)

    def room(self, request: TextRequest) -> int:
        return self.places - len(self.queue)

    async def answer(self, prepared: PreparedRequest) -> Prediction:
        if self.room(prepared.request) <= 0:
            raise Overloaded("full", 0.1)
        if prepared.request.text in self.failing:
            raise EngineError("broken")
        future: asyncio.Future[Prediction] = asyncio.get_running_loop().create_future()
        self.queue.append((prepared, future))
        self.longest_queue = max(self.longest_queue, len(self.queue))
        return await future

    async def run_engine(self) -> None:
        while True:
            await asyncio.sleep(0.001)
            for prepared, future in self.queue[: self.rows]:
                if not future.done():
                    seen = int(prepared.request.text)
                    future.set_result(Prediction({}, False, seen, Timings()))
            del self.queue[: self.rows]

    def feed(self, requests: Sequence[TextRequest]) -> BatchFeed:
        return BatchFeed(requests, self.preparation, self.room, self.answer, self.waiters)


def requests(count: int) -> list[TextRequest]:
    return [TextRequest(str(number), ()) for number in range(count)]


async def run(model: Model, *batches: Sequence[TextRequest]) -> list[list[Prediction | PalmServeError]]:
    engine = asyncio.create_task(model.run_engine())
    try:
        async with asyncio.timeout(60):
            return await asyncio.gather(*(model.feed(batch).run() for batch in batches))
    finally:
        engine.cancel()


def numbers(outcomes: Sequence[Prediction | PalmServeError]) -> list[int]:
    return [outcome.seen for outcome in outcomes if isinstance(outcome, Prediction)]


def test_batch_larger_than_the_queue_is_answered_whole_and_in_order() -> None:
    model = Model(places=5)
    (outcomes,) = asyncio.run(run(model, requests(200)))
    assert numbers(outcomes) == [*range(200)]
    assert model.tokenized == 200
    assert model.longest_queue == 5
    assert not model.counted


def test_each_of_many_batches_is_answered_whole_or_refused_untokenized() -> None:
    model = Model(places=8)
    answers = asyncio.run(run(model, *[requests(40)] * 12))
    whole = [outcomes for outcomes in answers if numbers(outcomes) == [*range(40)]]
    refused = [outcomes for outcomes in answers if all(isinstance(outcome, Overloaded) for outcome in outcomes)]
    assert len(whole) >= 1
    assert len(whole) + len(refused) == 12
    assert model.longest_queue <= 8
    assert len(model.counted) == 40 * len(refused)


def test_full_queue_refuses_at_once_and_tokenizes_nothing() -> None:
    model = Model(places=0)
    (outcomes,) = asyncio.run(run(model, requests(100)))
    assert [type(outcome) for outcome in outcomes] == [Overloaded] * 100
    assert model.tokenized == 0
    assert len(model.counted) == 100


def test_requests_that_lose_their_places_are_queued_again() -> None:
    async def scenario() -> list[Prediction | PalmServeError]:
        model = Model(places=10)
        task = asyncio.create_task(model.feed(requests(10)).run())
        async with asyncio.timeout(60):
            while len(model.queue) < 10:
                await asyncio.sleep(0.001)
        # Requests of another client take the places of the last ones.
        for _, future in model.queue[6:]:
            future.set_exception(Overloaded("more than its share", 0.1))
        del model.queue[6:]
        engine = asyncio.create_task(model.run_engine())
        try:
            async with asyncio.timeout(60):
                return await task
        finally:
            engine.cancel()

    assert numbers(asyncio.run(scenario())) == [*range(10)]


def test_other_errors_stay_with_their_requests() -> None:
    model = Model(places=5)
    model.failing = {"3", "150"}
    (outcomes,) = asyncio.run(run(model, requests(160)))
    assert [index for index, outcome in enumerate(outcomes) if isinstance(outcome, EngineError)] == [3, 150]
    assert len(numbers(outcomes)) == 158


def test_unmeetable_deadline_is_not_waited_for() -> None:
    class Late(Model):
        async def answer(self, prepared: PreparedRequest) -> Prediction:
            raise Unmeetable("too late")

    (outcomes,) = asyncio.run(run(Late(places=5), requests(10)))
    assert [type(outcome) for outcome in outcomes] == [Unmeetable] * 10


def test_caller_that_leaves_takes_its_requests_along() -> None:
    async def scenario() -> None:
        model = Model(places=5)
        task = asyncio.create_task(model.feed(requests(100)).run())
        async with asyncio.timeout(60):
            while len(model.queue) < 5:
                await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert all(future.cancelled() for _, future in model.queue)
        assert model.tokenized <= 10

    asyncio.run(scenario())


def test_patience_leaves_half_of_the_time() -> None:
    assert patience_s(None) == 0.25
    assert patience_s(time.monotonic() + 60) == 0.25
    assert 0 < patience_s(time.monotonic() + 0.2) <= 0.1
    assert patience_s(time.monotonic() - 1) == 0

"""Answers that need no run: kept ones, and runs that equal requests share."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palm_serve.errors import DeadlineExceeded, EngineError, Unmeetable
from palm_serve.registry import STABLE, AnswerCache, Registry
from palm_serve.registry.statistics import ModelStatistics
from palm_serve.types import Prediction, Priority, TextRequest, Timings
from palm_serve.v1 import palm_pb2 as pb
from palm_serve.v1 import palm_pb2_grpc as stubs


class Engine:
    """Answers once `go` is set, and counts its runs."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.began, self.given_up = 0, 0

    async def run(self, deadline: float | None = None, error: Exception | None = None) -> Prediction:
        self.began += 1
        number = self.began
        try:
            async with asyncio.timeout_at(deadline):
                await self.go.wait()
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed") from None
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        if error is not None:
            raise error
        return Prediction({}, False, number, Timings(queue_us=7))


def of(text: str = "hi", **fields: Any) -> TextRequest:
    return TextRequest(text, ("intent",), **fields)


async def begun(*coroutines: Any) -> list["asyncio.Task[Prediction]"]:
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    await asyncio.sleep(0.01)
    return tasks


@given(st.integers(1, 4), st.lists(st.tuples(st.booleans(), st.integers(0, 6)), max_size=40))
def test_cache_keeps_the_most_recently_used_answers(size: int, steps: list[tuple[bool, int]]) -> None:
    async def main() -> None:
        statistics = ModelStatistics()
        answers = AnswerCache(size, False, statistics)
        model: OrderedDict[int, Prediction] = OrderedDict()
        hits = 0
        for number, (asks, text) in enumerate(steps):
            answer = answers.find(of(str(text)))
            assert (answer is None) == (text not in model)
            if answer is not None:
                hits += 1
                model.move_to_end(text)
                assert answer.seen == model[text].seen
                assert answer.timings == Timings()
            if asks:

                async def compute(number: int = number) -> Prediction:
                    return Prediction({}, False, number, Timings(queue_us=7))

                model[text] = await answers.get_or_compute(of(str(text)), compute)
                assert model[text].timings.queue_us == 7
                model.move_to_end(text)
                if len(model) > size:
                    model.popitem(last=False)
            assert len(answers) == len(model) <= size
        assert statistics.repeated["kept"] == hits

    asyncio.run(main())


@pytest.mark.parametrize("changes", [{"pair": "x"}, {"top_k": 9}, {"text": "ho"}, {"tasks": ("slots",)}])
def test_cache_key_holds_all_that_changes_an_answer(changes: dict[str, Any]) -> None:
    async def main() -> None:
        engine = Engine()
        engine.go.set()
        answers = AnswerCache(9, True, ModelStatistics())
        await answers.get_or_compute(of(), engine.run)
        changed = TextRequest(**{"text": "hi", "tasks": ("intent",), **changes})
        assert answers.find(changed) is None
        assert answers.find(of(deadline=1.0, priority=Priority.BATCH)) is not None, "neither changes the answer"

    asyncio.run(main())


def test_equal_requests_share_a_run_within_a_priority() -> None:
    async def main() -> None:
        engine, statistics = Engine(), ModelStatistics()
        answers = AnswerCache(0, True, statistics)
        coroutines = [answers.get_or_compute(of(), engine.run) for _ in range(3)]
        tasks = await begun(*coroutines, answers.get_or_compute(of(priority=Priority.BATCH), engine.run))
        engine.go.set()
        runs = [(await task).seen for task in tasks]
        assert runs == [1, 1, 1, 2]
        assert engine.began == 2
        assert statistics.repeated == {"shared": 2}
        assert (await answers.get_or_compute(of(), engine.run)).seen == 3, "nothing is kept"

    asyncio.run(main())


@pytest.mark.parametrize("leaves", [0, 1, 2])
def test_cancelled_caller_does_not_disturb_the_others(leaves: int) -> None:
    async def main() -> None:
        engine = Engine()
        answers = AnswerCache(0, True, ModelStatistics())
        tasks = await begun(*(answers.get_or_compute(of(), engine.run) for _ in range(3)))
        tasks[leaves].cancel()
        await asyncio.sleep(0.01)
        assert tasks[leaves].cancelled()
        engine.go.set()
        assert [(await task).seen for task in tasks if not task.cancelled()] == [1, 1]
        assert (engine.began, engine.given_up) == (1, 0)

    asyncio.run(main())


def test_run_without_callers_is_cancelled_and_not_joined() -> None:
    async def main() -> None:
        engine = Engine()
        answers = AnswerCache(0, True, ModelStatistics())
        tasks = await begun(*(answers.get_or_compute(of(), engine.run) for _ in range(2)))
        for task in tasks:
            task.cancel()
        late = asyncio.create_task(answers.get_or_compute(of(), engine.run))
        await asyncio.wait(tasks)
        engine.go.set()
        assert (await late).seen == 2
        assert engine.given_up == 1

    asyncio.run(main())


def test_shared_run_keeps_each_callers_deadline() -> None:
    async def main() -> None:
        engine = Engine()
        answers = AnswerCache(0, True, ModelStatistics())
        now = time.monotonic()
        first, soon, patient = await begun(
            answers.get_or_compute(of(deadline=now + 0.3), lambda: engine.run(now + 0.3)),
            answers.get_or_compute(of(deadline=now + 0.1), lambda: engine.run(now + 0.1)),
            answers.get_or_compute(of(), engine.run),
        )
        with pytest.raises(DeadlineExceeded, match="while an equal request was answered"):
            await soon
        assert 0.1 <= time.monotonic() - now < 0.29
        with pytest.raises(DeadlineExceeded, match="the deadline passed"):
            await first
        await asyncio.sleep(0.01)
        assert engine.began == 2, "who has time left asks again"
        engine.go.set()
        assert (await patient).seen == 2

    asyncio.run(main())


def test_shared_run_shares_errors_but_no_time_refusals() -> None:
    async def main() -> None:
        engine = Engine()
        answers = AnswerCache(9, True, ModelStatistics())
        broken = await begun(
            *(answers.get_or_compute(of(), lambda: engine.run(error=EngineError("it fails"))) for _ in range(2))
        )
        engine.go.set()
        for task in broken:
            with pytest.raises(EngineError, match="it fails"):
                await task
        assert engine.began == 1
        assert answers.find(of()) is None
        refused, patient = await begun(
            answers.get_or_compute(of(), lambda: engine.run(error=Unmeetable("too late"))),
            answers.get_or_compute(of(), engine.run),
        )
        with pytest.raises(Unmeetable, match="too late"):
            await refused
        assert (await patient).seen == 3

    asyncio.run(main())


def test_swap_of_a_version_drops_cached_answers(
    tiny_bundle: Path, tmp_path: Path, make_tiny_bundle: Callable[..., Path]
) -> None:
    newer = make_tiny_bundle(tmp_path / "tiny", max_length=20)

    async def main() -> None:
        registry = Registry(provider="CPU", make_answer_cache=lambda statistics: AnswerCache(8, True, statistics))
        old = await registry.load(tiny_bundle)
        request = TextRequest("please play a song", ())
        computed, cached = await old.predict(request), await old.predict(request)
        assert cached.answers == computed.answers
        assert (computed.timings.batch_size, cached.timings.batch_size) == (1, 0)
        outcomes = await old.predict_many([request, TextRequest("hello", ()), request])
        assert [outcome.timings.batch_size for outcome in outcomes] == [0, 1, 0]
        assert outcomes[1].answers["intent"].label.name == "greeting"
        assert old.statistics.repeated == {"kept": 3}
        registry.assign("tiny", {STABLE: await registry.open(newer)})
        await registry.retire(old)
        assert (await registry.get("tiny").predict(request)).timings.batch_size == 1
        await registry.close()

    asyncio.run(main())


def test_server_with_the_options_caches_and_shares(start_server: Callable[..., Any], tiny_bundle: Path) -> None:
    process = start_server(tiny_bundle, "--keep-answers", "2", "--share-runs")
    with grpc.insecure_channel(process.target()) as channel:
        service = stubs.DialogueUnderstandingStub(channel)
        first = service.Parse(pb.ParseRequest(text="fly to boston"))
        again = service.Parse(pb.ParseRequest(text="fly to boston", offset_unit=pb.OFFSET_UNIT_UTF16, request_id="own"))
        assert (first.timings.batch_size, again.timings.batch_size) == (1, 0)
        assert again.request_id == "own"
        assert (again.slots, again.ranking) == (first.slots, first.ranking)
        many = service.ParseBatch(pb.ParseBatchRequest(requests=[pb.ParseRequest(text="hello there")] * 4))
        assert [item.response.timings.batch_size for item in many.items] == [1] * 4, "four requests, one row"

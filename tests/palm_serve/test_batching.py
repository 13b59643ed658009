"""The plan of a batch, stated as properties; and the scheduler around it: cancellation, deadlines, failures, a full queue, the end."""

import asyncio
import contextlib
import logging
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palm_serve.batching import BatchLimits, Scheduler, plan_batch
from palm_serve.errors import DeadlineExceeded, EngineError, InvalidRequest, Overloaded, Unavailable

LENGTHS = st.lists(st.integers(1, 64), max_size=40)
LIMITS = st.builds(
    BatchLimits,
    max_tokens=st.integers(8, 512),
    max_rows=st.integers(1, 16),
    max_padding=st.floats(0, 0.9),
    free_padding=st.integers(0, 64),
)


@given(LENGTHS, LIMITS)
def test_no_batch_exceeds_its_limits_but_for_a_single_row(lengths, limits):
    batch = plan_batch(lengths, [None] * len(lengths), 0.0, limits).batch
    if len(batch) > 1:
        chosen = [lengths[i] for i in batch]
        padded = max(chosen) * len(chosen)
        assert padded <= limits.max_tokens
        assert len(batch) <= limits.max_rows
        assert padded - sum(chosen) <= max(limits.free_padding, limits.max_padding * padded)


@given(LENGTHS, LIMITS)
def test_every_entry_runs_exactly_once_and_none_is_overtaken_for_long(lengths, limits):
    left, batches = list(range(len(lengths))), []
    while left:
        batch = plan_batch([lengths[i] for i in left], [None] * len(left), 0.0, limits).batch
        chosen = [left[i] for i in batch]
        assert left[0] in chosen, "the oldest always runs"
        batches.append(chosen)
        left = [i for i in left if i not in chosen]
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for entry in range(len(lengths)):
        runs_in = next(number for number, batch in enumerate(batches) if entry in batch)
        assert runs_in <= entry, "an entry with n before it runs in batch n + 1 at the latest"


@given(st.lists(st.tuples(st.integers(1, 64), st.none() | st.floats(-5, 5)), max_size=30), LIMITS)
def test_the_expired_cost_no_row_and_are_all_told(entries, limits):
    plan = plan_batch([length for length, _ in entries], [deadline for _, deadline in entries], 0.0, limits)
    expired = [i for i, (_, deadline) in enumerate(entries) if deadline is not None and deadline <= 0.0]
    assert list(plan.expired) == expired
    assert not set(plan.batch) & set(expired)
    assert bool(plan.batch) == (len(expired) < len(entries))


def test_lengths_that_differ_do_not_share_a_batch():
    lengths = [40, 4, 40, 4, 40, 4, 38, 5]
    batch = plan_batch(lengths, [None] * len(lengths), 0.0, BatchLimits())
    assert [lengths[i] for i in batch.batch] == [40, 40, 40, 38]


def test_few_short_ones_do():
    assert plan_batch([4, 12, 7], [None] * 3, 0.0, BatchLimits()).batch == (0, 1, 2)


class Seen:
    """An observer that remembers."""

    def __init__(self):
        self.batches, self.events, self.waits = [], [], []

    def ran(self, rows, tokens, padded_tokens, waits_s, service_s):
        self.batches.append((rows, tokens, padded_tokens))
        self.waits += waits_s
        assert service_s >= 0

    def refused(self):
        self.events.append("refused")

    def expired(self):
        self.events.append("expired")

    def cancelled(self):
        self.events.append("cancelled")


class Model:
    """Doubles numbers; waits for leave before each batch, and fails on 13."""

    def __init__(self, free=True):
        self.batches, self.leave, self.started = [], threading.Event(), threading.Event()
        if free:
            self.leave.set()

    def __call__(self, payloads, waits):
        assert len(payloads) == len(waits)
        self.batches.append(list(payloads))
        self.started.set()
        assert self.leave.wait(10)
        if 13 in payloads:
            raise ValueError("thirteen")
        if 14 in payloads:
            raise InvalidRequest("fourteen")
        return [2 * payload for payload in payloads]


@contextlib.asynccontextmanager
async def serving(model, limits=None, **options):
    seen = Seen()
    scheduler = Scheduler(model, limits, seen, **options)
    try:
        yield scheduler, seen
    finally:
        model.leave.set()
        await scheduler.close()


async def started(model):
    """Until the engine is inside a batch."""
    await asyncio.to_thread(model.started.wait, 10)
    await asyncio.sleep(0)


def test_what_arrives_together_runs_together():
    async def main():
        model = Model()
        async with serving(model) as (scheduler, seen):
            assert await asyncio.gather(*(scheduler.submit(i, 5 + i % 2) for i in range(8))) == [
                2 * i for i in range(8)
            ]
            assert model.batches == [list(range(8))]
            assert seen.batches == [(8, 44, 48)]

    asyncio.run(main())


def test_what_waits_while_the_engine_is_busy_is_the_next_batch():
    async def main():
        model = Model(free=False)
        async with serving(model) as (scheduler, _):
            first = asyncio.ensure_future(scheduler.submit(0, 5))
            await started(model)
            others = [asyncio.ensure_future(scheduler.submit(i, 5)) for i in (1, 2, 3)]
            await asyncio.sleep(0)
            model.leave.set()
            assert await asyncio.gather(first, *others) == [0, 2, 4, 6]
            assert model.batches == [[0], [1, 2, 3]]

    asyncio.run(main())


def test_one_cancelled_in_flight_and_the_others_answer():
    """The classic fault of Python batchers."""

    async def main():
        model = Model(free=False)
        async with serving(model) as (scheduler, _):
            three = [asyncio.ensure_future(scheduler.submit(i, 5)) for i in range(3)]
            await started(model)
            three[1].cancel()
            await asyncio.sleep(0)
            model.leave.set()
            assert await three[0] == 0
            assert await three[2] == 4
            assert three[1].cancelled()
            assert await scheduler.submit(7, 5) == 14

    asyncio.run(main())


def test_cancelled_while_it_waits_costs_no_row():
    async def main():
        model = Model(free=False)
        async with serving(model) as (scheduler, seen):
            first = asyncio.ensure_future(scheduler.submit(0, 5))
            await started(model)
            given_up = asyncio.ensure_future(scheduler.submit(1, 5))
            await asyncio.sleep(0)
            given_up.cancel()
            await asyncio.sleep(0)
            model.leave.set()
            assert await first == 0
            await asyncio.sleep(0.01)
            assert model.batches == [[0]]
            assert seen.events == ["cancelled"]

    asyncio.run(main())


def test_expired_while_it_waits_costs_no_row():
    async def main():
        model, now = Model(free=False), 100.0
        async with serving(model, clock=lambda: now) as (scheduler, seen):
            first = asyncio.ensure_future(scheduler.submit(0, 5, deadline=100.5))
            await started(model)
            late = asyncio.ensure_future(scheduler.submit(1, 5, deadline=101.0))
            in_time = asyncio.ensure_future(scheduler.submit(2, 5, deadline=103.0))
            await asyncio.sleep(0)
            now = 102.0
            model.leave.set()
            assert await first == 0, "a batch that runs is finished"
            with pytest.raises(DeadlineExceeded, match=r"the deadline passed after 2\.000 s in the queue"):
                await late
            assert await in_time == 4
            assert model.batches == [[0], [2]]
            assert seen.events == ["expired"]

    asyncio.run(main())


def test_a_failure_fails_its_batch_only_and_tells_no_text(caplog):
    async def main():
        model = Model(free=False)
        async with serving(model) as (scheduler, _):
            bad = [asyncio.ensure_future(scheduler.submit(i, 5)) for i in (12, 13)]
            await started(model)
            good = asyncio.ensure_future(scheduler.submit(3, 5))
            await asyncio.sleep(0)
            model.leave.set()
            for waiter in bad:
                with pytest.raises(EngineError, match="the model failed on this batch"):
                    await waiter
            assert await good == 6
            assert await scheduler.submit(4, 5) == 8
            with pytest.raises(InvalidRequest, match="fourteen"):
                await scheduler.submit(14, 5)

    with caplog.at_level(logging.ERROR, "palm_serve"):
        asyncio.run(main())
    assert [record.getMessage() for record in caplog.records] == ["a batch of 2 failed"]
    assert caplog.records[0].exc_info[0] is ValueError


def test_too_few_results_fail_the_batch_and_not_the_scheduler():
    async def main():
        calls = []

        def forgetful(payloads, waits):
            calls.append(payloads)
            return payloads if len(calls) > 1 else payloads[:-1]

        scheduler = Scheduler(forgetful)
        for outcome in await asyncio.gather(scheduler.submit(1, 5), scheduler.submit(2, 5), return_exceptions=True):
            assert isinstance(outcome, EngineError)
        assert await scheduler.submit(3, 5) == 3
        await scheduler.close()

    asyncio.run(main())


def test_a_full_queue_refuses_and_says_when_to_come_back():
    async def main():
        model = Model(free=False)
        async with serving(model, BatchLimits(max_waiting=2)) as (scheduler, seen):
            running = asyncio.ensure_future(scheduler.submit(0, 5))
            await started(model)
            waiting = [asyncio.ensure_future(scheduler.submit(i, 5)) for i in (1, 2)]
            await asyncio.sleep(0)
            with pytest.raises(
                Overloaded, match=r"2 requests wait already, the limit; try again in \d\.\d\d s"
            ) as refusal:
                await scheduler.submit(3, 5)
            assert 0 < refusal.value.retry_after_s <= 5
            waiting[0].cancel()
            await asyncio.sleep(0)
            late = asyncio.ensure_future(scheduler.submit(4, 5))
            await asyncio.sleep(0)
            model.leave.set()
            assert await asyncio.gather(running, waiting[1], late) == [0, 4, 8]
            assert seen.events == ["refused", "cancelled"]

    asyncio.run(main())


def test_closing_finishes_what_was_taken_and_takes_no_more():
    async def main():
        model = Model(free=False)
        scheduler = Scheduler(model, BatchLimits(max_rows=1))
        taken = [asyncio.ensure_future(scheduler.submit(i, 5)) for i in range(3)]
        await started(model)
        closing = asyncio.ensure_future(scheduler.close())
        await asyncio.sleep(0)
        assert scheduler.closing
        with pytest.raises(Unavailable, match="try another replica"):
            await scheduler.submit(9, 5)
        model.leave.set()
        await closing
        assert await asyncio.gather(*taken) == [0, 2, 4]
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("palm-engine")]

    asyncio.run(main())


def test_the_event_loop_is_free_while_the_engine_works():
    async def main():
        model = Model(free=False)
        async with serving(model) as (scheduler, _):
            waiter = asyncio.ensure_future(scheduler.submit(1, 5))
            await started(model)
            begin = time.perf_counter()
            for _ in range(100):
                await asyncio.sleep(0)
            assert time.perf_counter() - begin < 5
            assert not waiter.done()
            model.leave.set()
            assert await waiter == 2

    asyncio.run(main())

"""A scheduler on its engine thread: cancellation, deadlines, failures, a full queue, several models, an engine that breaks, the end."""

import asyncio
import contextlib
import logging
import threading
import time

import pytest

from palm_serve.batching import BatchLimits, EngineLatency, EngineThread, Scheduler
from palm_serve.errors import DeadlineExceeded, EngineError, InvalidRequest, Overloaded, Unavailable, Unmeetable
from palm_serve.types import Priority


class RecordingObserver:
    """An observer that keeps its events."""

    def __init__(self):
        self.batches, self.events, self.ran_batches, self.broken = [], [], [], 0

    def batch_finished(self, batch):
        self.batches.append((batch.rows, batch.tokens, batch.padded_tokens))
        self.ran_batches.append(batch)
        assert 0 <= batch.engine_s <= batch.service_s
        assert batch.wasted == 0

    def refused(self):
        self.events.append("refused")

    def unmeetable(self):
        self.events.append("unmeetable")

    def expired(self):
        self.events.append("expired")

    def cancelled(self):
        self.events.append("cancelled")

    def engine_failed(self):
        self.broken += 1


class Model:
    """Doubles numbers; waits for leave before each batch, and fails on 13."""

    def __init__(self, free=True):
        self.batches, self.leave, self.started = [], threading.Event(), threading.Event()
        if free:
            self.leave.set()

    def run(self, payloads):
        self.batches.append(list(payloads))
        self.started.set()
        assert self.leave.wait(10)
        if 13 in payloads:
            raise ValueError("thirteen")
        if 14 in payloads:
            raise InvalidRequest("fourteen")
        if 15 in payloads:
            raise SystemExit("fifteen")
        return [2 * payload for payload in payloads]

    def decode(self, payloads, values, waits):
        assert len(payloads) == len(values) == len(waits)
        return values


@contextlib.asynccontextmanager
async def serving(model, limits=None, clock=time.monotonic, engine_thread=None, **options):
    observer = RecordingObserver()
    scheduler = Scheduler(engine_thread or EngineThread(clock), model.run, model.decode, limits, observer, **options)
    try:
        yield scheduler, observer
    finally:
        model.leave.set()
        await scheduler.close()


def known_latency():
    """Return the latency of an engine that needs a millisecond, and one more for ten tokens."""
    latency = EngineLatency()
    for tokens in (10, 100, 1000) * 30:
        latency.run.observe(tokens, 0.001 + 1e-4 * tokens)
    return latency


async def started(model):
    """Until the engine is inside a batch."""
    await asyncio.to_thread(model.started.wait, 10)
    await asyncio.sleep(0)


def test_requests_that_arrive_together_run_together():
    async def main():
        model = Model()
        async with serving(model) as (scheduler, observer):
            await asyncio.sleep(0.1)  # the engine's thread, which looks for work when it starts, has gone to sleep
            assert await asyncio.gather(*(scheduler.submit(i, 5 + i % 2) for i in range(8))) == [
                2 * i for i in range(8)
            ]
            assert model.batches == [list(range(8))]
            assert observer.batches == [(8, 44, 48)]

    asyncio.run(main())


def test_requests_that_wait_form_the_next_batch():
    async def main():
        model = Model(free=False)
        async with serving(model) as (scheduler, _):
            first = asyncio.ensure_future(scheduler.submit(0, 5))
            await started(model)
            waiting = [asyncio.ensure_future(scheduler.submit(i, 5)) for i in (1, 2, 3)]
            await asyncio.sleep(0)
            model.leave.set()
            assert await asyncio.gather(first, *waiting) == [0, 2, 4, 6]
            assert model.batches == [[0], [1, 2, 3]]

    asyncio.run(main())


def test_request_cancelled_in_flight_leaves_its_batch():
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


def test_request_cancelled_in_the_queue_is_not_run():
    async def main():
        model = Model(free=False)
        async with serving(model) as (scheduler, observer):
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
            assert observer.events == ["cancelled"]

    asyncio.run(main())


def test_request_expired_in_the_queue_is_not_run():
    async def main():
        model, now = Model(free=False), 100.0
        async with serving(model, clock=lambda: now) as (scheduler, observer):
            first = asyncio.ensure_future(scheduler.submit(0, 5, deadline=100.5))
            await started(model)
            late = asyncio.ensure_future(scheduler.submit(1, 5, deadline=101.0))
            cannot = asyncio.ensure_future(scheduler.submit(6, 5, deadline=102.5))
            in_time = asyncio.ensure_future(scheduler.submit(2, 5, deadline=120.0))
            await asyncio.sleep(0)
            now = 102.0
            model.leave.set()
            assert await first == 0, "a batch that runs is finished"
            with pytest.raises(DeadlineExceeded, match=r"the deadline passed after 2\.000 s in the queue"):
                await late
            with pytest.raises(Unmeetable, match=r"after 2\.000 s in the queue, 500 ms remain, too few to answer"):
                await cannot
            assert await in_time == 4
            assert model.batches == [[0], [2]]
            assert observer.events == ["expired", "expired"]

    asyncio.run(main())


def test_failure_fails_its_batch_only_and_logs_no_text(caplog):
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


def test_too_few_results_fail_only_their_batch():
    async def main():
        calls = []

        class Forgetful(Model):
            def decode(self, payloads, values, waits):
                calls.append(payloads)
                return values if len(calls) > 1 else values[:-1]

        async with serving(Forgetful()) as (scheduler, _):
            outcomes = await asyncio.gather(scheduler.submit(1, 5), scheduler.submit(2, 5), return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [EngineError, EngineError]
            assert await scheduler.submit(3, 5) == 6

    asyncio.run(main())


def test_full_queue_refuses_with_a_retry_delay():
    async def main():
        model = Model(free=False)
        async with serving(model, BatchLimits(max_waiting=2)) as (scheduler, observer):
            running = asyncio.ensure_future(scheduler.submit(0, 5))
            await started(model)
            waiting = [asyncio.ensure_future(scheduler.submit(i, 5)) for i in (1, 2)]
            await asyncio.sleep(0)
            with pytest.raises(
                Overloaded, match=r"queue is full: 2 requests are waiting, the limit is 2\. Try again in \d\.\d\d s"
            ) as refusal:
                await scheduler.submit(3, 5)
            assert 0 < refusal.value.retry_after_s <= 5
            waiting[0].cancel()
            await asyncio.sleep(0)
            late = asyncio.ensure_future(scheduler.submit(4, 5))
            await asyncio.sleep(0)
            model.leave.set()
            assert await asyncio.gather(running, waiting[1], late) == [0, 4, 8]
            assert observer.events == ["refused", "cancelled"]

    asyncio.run(main())


def test_close_finishes_requests_and_refuses_new_ones():
    async def main():
        model = Model(free=False)
        scheduler = Scheduler(EngineThread(), model.run, model.decode, BatchLimits(max_rows=1))
        requests = [asyncio.ensure_future(scheduler.submit(i, 5)) for i in range(3)]
        await started(model)
        closing = asyncio.ensure_future(scheduler.close())
        await asyncio.sleep(0)
        assert scheduler.closing
        with pytest.raises(Unavailable, match="try another replica"):
            await scheduler.submit(9, 5)
        model.leave.set()
        await closing
        assert await asyncio.gather(*requests) == [0, 2, 4]
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("palm-")]

    asyncio.run(main())


def test_event_loop_is_free_while_the_engine_works():
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


def test_deadline_while_the_engine_hangs_is_answered():
    """The answer to a request that expires does not wait for the engine."""

    async def main():
        model = Model(free=False)
        async with serving(model) as (scheduler, observer):
            begin = time.monotonic()
            running = asyncio.ensure_future(scheduler.submit(0, 5, deadline=begin + 0.08))
            await started(model)
            waiting = asyncio.ensure_future(scheduler.submit(1, 5, deadline=begin + 0.1))
            with pytest.raises(DeadlineExceeded, match=r"after 0\.\d{3} s while its batch ran"):
                await running
            with pytest.raises(DeadlineExceeded, match=r"after 0\.\d{3} s in the queue"):
                await waiting
            assert time.monotonic() - begin < 2
            model.leave.set()
            assert await scheduler.submit(2, 5) == 4
            await asyncio.sleep(0.01)
            assert model.batches == [[0], [2]]
            assert observer.events == ["expired"]
            assert observer.ran_batches[0].late == 1

    asyncio.run(main())


def test_overload_is_known_before_a_request_while_others_are_refused(monkeypatch):
    monkeypatch.setattr("palm_serve.batching.scheduler._OVERLOAD_S", 60.0)

    async def main():
        model = Model(free=False)
        async with serving(model, BatchLimits(max_waiting=1)) as (scheduler, observer):
            running = asyncio.ensure_future(scheduler.submit(0, 5))
            await started(model)
            waiting = [asyncio.ensure_future(scheduler.submit(1, 5))]
            await asyncio.sleep(0)
            with pytest.raises(Overloaded):
                await scheduler.submit(2, 5)
            assert scheduler.overload(None, "") is None, "there is room for a request of the other priority"
            waiting.append(asyncio.ensure_future(scheduler.submit(3, 5, priority=Priority.BATCH)))
            await asyncio.sleep(0)
            assert "queue is full" in str(scheduler.overload(None, ""))
            assert observer.events == ["refused"], "it counts nothing"
            model.leave.set()
            assert await asyncio.gather(running, *waiting) == [0, 2, 6]
            assert scheduler.overload(None, "") is None

    asyncio.run(main())


def test_unmeetable_deadline_is_refused_with_a_retry_delay():
    async def main():
        model = Model(free=False)
        async with serving(model, latency=known_latency()) as (scheduler, observer):
            now = time.monotonic()
            with pytest.raises(Unmeetable, match=r"until its deadline, and one such request takes up to \d+ ms"):
                await scheduler.submit(0, 100, deadline=now + 0.002)
            running = asyncio.ensure_future(scheduler.submit(1, 5))
            await started(model)
            crowd = [asyncio.ensure_future(scheduler.submit(i, 40)) for i in range(20, 70)]
            await asyncio.sleep(0)
            with pytest.raises(Unmeetable, match=r"and the requests before it take \d+ ms\. Try again in") as refusal:
                await scheduler.submit(2, 40, deadline=time.monotonic() + 0.1)
            assert 0.1 < refusal.value.retry_after_s < 2
            with pytest.raises(Unmeetable, match="cannot be answered in time"):
                scheduler.check(time.monotonic() + 0.1)
            scheduler.check(time.monotonic() + 30)
            with pytest.raises(DeadlineExceeded, match="already passed"):
                scheduler.check(time.monotonic() - 1)
            model.leave.set()
            await asyncio.gather(running, *crowd)
            assert 2 not in [payload for batch in model.batches for payload in batch]
            assert observer.events == ["unmeetable"] * 3 + ["expired"]

    asyncio.run(main())


def test_decoding_overlaps_the_next_run():
    """The engine does not wait for it; but no more than two batches lie undecoded."""

    class Slow(Model):
        def __init__(self):
            super().__init__()
            self.decoding, self.decoded = threading.Event(), threading.Event()

        def decode(self, payloads, values, waits):
            self.decoding.set()
            assert self.decoded.wait(10)
            return values

    async def main():
        model = Slow()
        async with serving(model, BatchLimits(max_rows=1)) as (scheduler, _):
            answers = [asyncio.ensure_future(scheduler.submit(i, 5)) for i in range(6)]
            await asyncio.to_thread(model.decoding.wait, 10)
            end = time.monotonic() + 5
            while len(model.batches) < 2 and time.monotonic() < end:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.05)
            assert 2 <= len(model.batches) <= 3, "one decodes, one lies there, and perhaps one ran before both"
            assert not any(answer.done() for answer in answers)
            model.decoded.set()
            assert await asyncio.gather(*answers) == [2 * i for i in range(6)]

    asyncio.run(main())


def test_interactive_requests_run_first():
    async def main():
        model = Model(free=False)
        async with serving(model, BatchLimits(max_rows=2), latency=known_latency()) as (scheduler, _):
            first = asyncio.ensure_future(scheduler.submit(0, 5))
            await started(model)
            later = [asyncio.ensure_future(scheduler.submit(i, 1000, priority=Priority.BATCH)) for i in (1, 2)]
            later += [asyncio.ensure_future(scheduler.submit(i, 5)) for i in (3, 4)]
            await asyncio.sleep(0)
            model.leave.set()
            await asyncio.gather(first, *later)
            assert model.batches == [[0], [3, 4], [1, 2]]

    asyncio.run(main())


def test_two_models_never_run_at_once():
    async def main():
        engine_thread, running, running_counts = EngineThread(), [], []

        class Counting(Model):
            def run(self, payloads):
                running.append(self)
                running_counts.append(len(running))
                time.sleep(0.001)
                running.remove(self)
                return super().run(payloads)

        first_model, second_model = Counting(), Counting()
        async with (
            serving(first_model, engine_thread=engine_thread) as (first, _),
            serving(second_model, engine_thread=engine_thread) as (second, _),
        ):
            for _ in range(5):
                await asyncio.gather(*(s.submit(i, 5 + 9 * i) for i in range(5) for s in (first, second)))
        assert len(first_model.batches) >= 5
        assert len(second_model.batches) >= 5
        assert max(running_counts) == 1

    asyncio.run(main())


async def until(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.002)


def test_engine_thread_that_crashes_is_replaced(caplog):
    async def main():
        model, errors, other_model = Model(free=False), [], Model()
        engine_thread = EngineThread()
        async with (
            serving(model, engine_thread=engine_thread, on_failure=errors.append) as (scheduler, counted),
            serving(other_model, engine_thread=engine_thread) as (beside, _),
        ):
            fatal = asyncio.ensure_future(scheduler.submit(15, 5))
            await started(model)
            waiting = asyncio.ensure_future(scheduler.submit(3, 5))
            await asyncio.sleep(0)
            model.leave.set()
            with pytest.raises(EngineError, match="the model failed on this batch"):
                await fatal
            with pytest.raises(Unavailable, match="engine failed and is being tried again; try another replica"):
                await waiting
            assert [type(error) for error in errors] == [SystemExit]
            assert counted.broken == 1
            await until(lambda: scheduler.healthy and beside.healthy)
            assert await asyncio.gather(scheduler.submit(4, 5), beside.submit(5, 5)) == [8, 10]

    with caplog.at_level(logging.WARNING, "palm_serve"):
        asyncio.run(main())
    assert "the engine's thread crashed; another takes its place" in caplog.text
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("palm-")]


def test_engine_that_fails_repeatedly_recovers_by_a_trial(caplog):
    async def main():
        model, errors, works = Model(), [], threading.Event()

        def probe():
            if not works.is_set():
                raise RuntimeError("no device")

        async with serving(model, probe=probe, on_failure=errors.append) as (scheduler, _):
            for _ in range(3):
                assert scheduler.healthy
                with pytest.raises(EngineError):
                    await scheduler.submit(13, 5)
            await until(lambda: not scheduler.healthy)
            assert [str(error) for error in errors] == ["thirteen"]
            for ask in (scheduler.submit(1, 5), asyncio.to_thread(scheduler.check, None)):
                with pytest.raises(Unavailable, match="try another replica"):
                    await ask
            works.set()
            await until(lambda: scheduler.healthy)
            assert await scheduler.submit(1, 5) == 2

    with caplog.at_level(logging.WARNING, "palm_serve"):
        asyncio.run(main())
    assert "3 batches in a row failed" in caplog.text
    assert "the engine works again" in caplog.text


def test_invalid_requests_do_not_break_the_engine():
    async def main():
        async with serving(Model()) as (scheduler, _):
            for _ in range(5):
                with pytest.raises(InvalidRequest):
                    await scheduler.submit(14, 5)
            assert scheduler.healthy

    asyncio.run(main())


def test_idle_engine_thread_does_not_poll():
    """No polling: while nothing waits, the engine's thread takes no processor time."""

    async def main():
        engine_thread, polls = EngineThread(), []
        next_batch = engine_thread._controller.next_batch

        def counting(now):
            polls.append(now)
            return next_batch(now)

        engine_thread._controller.next_batch = counting
        async with serving(Model(), engine_thread=engine_thread) as (scheduler, _):
            await scheduler.submit(1, 5)
            await asyncio.sleep(0.01)
            before = len(polls)
            await asyncio.sleep(0.2)
            assert len(polls) == before

    asyncio.run(main())

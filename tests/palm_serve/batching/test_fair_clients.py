"""Clients of one queue take turns: what one of them asks for does not keep another one waiting."""

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palm_serve.batching import AdmissionController, BatchLimits
from palm_serve.batching.admission import ScheduledBatch
from palm_serve.errors import Overloaded, Unmeetable
from palm_serve.types import Priority

FULL_BATCH_S = 0.002 + 3e-5 * 64 * 40
"""A full batch of usual texts on the simulated engine."""


@pytest.mark.parametrize("deadline_s", [math.inf, 0.5])
@pytest.mark.parametrize("flood_deadline_s", [math.inf, 0.3])
def test_light_client_beside_a_flood_is_answered(simulator: Any, deadline_s: float, flood_deadline_s: float) -> None:
    """The flood asks for 20 times its share, the other client for 5 % of the capacity."""
    capacity = simulator.capacity()
    seconds = 6.0
    arrivals = [
        *simulator.poisson(10 * capacity, int(10 * capacity * seconds), 1, client="flood", within=flood_deadline_s),
        *simulator.poisson(0.05 * capacity, int(0.05 * capacity * seconds), 2, client="light", within=deadline_s),
    ]
    arrivals.sort(key=lambda arrival: arrival.at)
    report = simulator.run(arrivals)
    light = [number for number, arrival in enumerate(arrivals) if arrival.client == "light"]
    answered = [number for number in light if number in report.answered]
    assert len(answered) >= 0.99 * len(light)
    latencies = sorted(report.answered[number] - arrivals[number].at for number in answered)
    assert latencies[int(0.99 * len(latencies))] <= 3 * FULL_BATCH_S
    assert report.rows >= 0.85 * capacity * max(report.answered.values()), (
        "the engine works at its capacity all the time"
    )


def test_flood_alone_has_the_whole_queue_and_engine(simulator: Any) -> None:
    arrivals = simulator.poisson(3 * simulator.capacity(), 6000, 1)
    named = [type(arrival)(arrival.at, arrival.length, client="flood") for arrival in arrivals]
    assert simulator.run(named) == simulator.run(arrivals)


def test_long_and_short_texts_of_two_floods_get_equal_tokens(make_simulator: Callable[..., Any]) -> None:
    simulator = make_simulator(limits=BatchLimits(max_waiting=10_000, max_waiting_tokens=10**7))
    make = type(simulator.poisson(1.0, 1, 1)[0])
    arrivals = [make(0.0, 60 if number % 2 else 6, client="ab"[number % 2]) for number in range(8000)]
    report = simulator.run(arrivals)
    half = statistics.median(report.answered.values())
    tokens = {"a": 0, "b": 0}
    for number, at in report.answered.items():
        if at < half / 2:
            tokens[arrivals[number].client] += arrivals[number].length
    assert tokens["a"] == pytest.approx(tokens["b"], rel=0.1)


def open_queue(**limits: int) -> tuple[AdmissionController[Any], Any]:
    controller: AdmissionController[Any] = AdmissionController()
    queues = controller.open(BatchLimits(**limits), lambda rows, length: rows * length)
    return controller, queues[Priority.INTERACTIVE]


def test_full_queue_gives_a_place_to_a_client_below_its_share() -> None:
    controller, queue = open_queue(max_waiting=8, max_rows=4)
    flood = [controller.admit(queue, number, 5, None, 0.0, "flood") for number in range(8)]
    with pytest.raises(Overloaded, match="the limit is 8"):
        controller.admit(queue, 9, 5, None, 0.0, "flood")
    displaced = []
    for number in range(4):
        displaced += controller.admit(queue, number, 5, None, 0.0, "light").displaced
    assert displaced == flood[:3:-1], "the least urgent ones, one for each"
    assert not any(request.waiting for request in displaced)
    assert queue.rows == 8
    for client in ("flood", "light"):
        with pytest.raises(Overloaded):
            controller.admit(queue, 0, 5, None, 0.0, client)


def test_place_in_tokens_is_shared_too() -> None:
    controller, queue = open_queue(max_waiting_tokens=100)
    flood = [controller.admit(queue, number, 10, None, 0.0, "flood") for number in range(10)]
    assert controller.admit(queue, 0, 25, None, 0.0, "light").displaced == flood[:6:-1]
    with pytest.raises(Overloaded, match="tokens are waiting"):
        controller.admit(queue, 1, 30, None, 0.0, "light")


def test_one_place_is_never_taken_away() -> None:
    controller, queue = open_queue(max_waiting=1)
    controller.admit(queue, 0, 5, None, 0.0, "a")
    with pytest.raises(Overloaded):
        controller.admit(queue, 1, 5, None, 0.0, "b")


def test_deadline_counts_the_own_requests_and_the_turns_of_others() -> None:
    """Else a flood would make every deadline of another client unmeetable."""
    controller, queue = open_queue(max_rows=4, max_tokens=80)
    for _ in range(20):
        queue.latency.run.observe(4 * 10, 0.1)
    for number in range(100):
        controller.admit(queue, number, 10, None, 0.0, "flood")
    assert controller.admit(queue, 0, 10, 0.5, 0.0, "light").deadline == 0.5
    with pytest.raises(Unmeetable):
        controller.admit(queue, 0, 10, 0.5, 0.0, "flood")


def test_client_that_was_idle_does_not_catch_up() -> None:
    controller, queue = open_queue(max_rows=2, max_waiting=1000)
    for number in range(200):
        controller.admit(queue, number, 5, None, 0.0, "steady")
        controller.admit(queue, number, 5, None, 0.0, "other")
    for _ in range(50):
        run(controller)
    for number in range(100):
        controller.admit(queue, number, 5, None, 0.0, "late")
    counts = {"steady": 0, "other": 0, "late": 0}
    for _ in range(30):
        for request in run(controller).requests:
            counts[request.client] += 1
    assert max(counts.values()) - min(counts.values()) <= 2


def test_client_that_comes_late_does_not_stop_the_one_before() -> None:
    """What the first one had alone does not count against it."""
    controller, queue = open_queue(max_rows=2, max_waiting=1000)
    for number in range(300):
        controller.admit(queue, number, 5, None, 0.0, "first")
    for _ in range(100):
        run(controller)
    for number in range(100):
        controller.admit(queue, number, 5, None, 0.0, "late")
    counts = {"first": 0, "late": 0}
    for _ in range(30):
        for request in run(controller).requests:
            counts[request.client] += 1
    assert counts == {"first": 30, "late": 30}


def test_few_requests_beside_a_flood_run_in_the_next_batch_whatever_their_lengths() -> None:
    """Sorted by length as the flood's, each would wait for a batch of its own."""
    controller, queue = open_queue()
    for number in range(1000):
        controller.admit(queue, number, 6 if number % 3 else 50, None, 0.0, "flood")
    now = 1.0
    for lengths in ([30], [60, 6, 25, 12], [9, 50, 9]):
        batch = controller.next_batch(now)
        assert batch is not None
        light = [controller.admit(queue, number, length, None, now, "light") for number, length in enumerate(lengths)]
        controller.batch_finished(batch, now + 0.05)
        now += 0.05
        next_batch = run(controller, now)
        assert set(light) <= set(next_batch.requests)
        assert len(next_batch.requests) > len(light), "the flood fills the rest"


def test_flood_of_three_clients_is_sorted_by_length_as_before() -> None:
    """Where others ask for much, too, they find company of their length, and the engine computes little padding."""
    controller, queue = open_queue(max_rows=16)
    for number in range(300):
        controller.admit(queue, number, 5 + 5 * (number % 10), None, 0.0, "abc"[number % 3])
    tokens = padded = 0
    for _ in range(15):
        batch = run(controller, per_token=1e-4)
        tokens += batch.tokens
        padded += batch.padded
    assert tokens >= 0.85 * padded


def run(controller: AdmissionController[Any], now: float = 0.0, per_token: float = 0.0) -> ScheduledBatch[Any]:
    """Run the next batch. It takes 10 ms, and `per_token` seconds for each padded token."""
    batch = controller.next_batch(now)
    assert batch is not None
    controller.batch_finished(batch, now + 0.01 + per_token * batch.padded)
    return batch


CLIENTS = "abcd"
asks = st.tuples(st.sampled_from(CLIENTS), st.integers(1, 60))
events = st.lists(st.one_of(asks, st.just("batch"), st.integers(0, 50)), min_size=1, max_size=250)


@settings(max_examples=200, deadline=None)
@given(events=events, max_waiting=st.integers(1, 40))
def test_no_client_starves_and_places_are_shared(events: Sequence[Any], max_waiting: int) -> None:
    """Whatever clients ask and withdraw: batches are never empty, turns are equal, and nobody loses a place in its share."""
    controller, queue = open_queue(max_rows=4, max_tokens=200, max_waiting=max_waiting)
    waiting: list[Any] = []
    skipped_tokens = dict.fromkeys(CLIENTS, 0)
    now = 0.0
    for event in events:
        now += 0.001
        held = {client: sum(request.client == client for request in waiting) for client in CLIENTS}
        active = sum(count > 0 for count in held.values())
        if event == "batch":
            if not waiting:
                assert controller.next_batch(now) is None
                continue
            batch = run(controller, now)
            assert batch.requests, "work conserving"
            waiting = [request for request in waiting if request.waiting]
            for client in CLIENTS:
                served = any(request.client == client for request in batch.requests)
                skipped_tokens[client] = 0 if served or not held[client] else skipped_tokens[client] + batch.tokens
                assert skipped_tokens[client] <= 60 * 2 * len(CLIENTS) * 4, "a turn comes after those of the others"
        elif isinstance(event, int):
            if waiting:
                request = waiting.pop(event % len(waiting))
                request.abandoned = True
                queue.withdraw(request)
        else:
            client, length = event
            sharing = active + (not held[client])
            try:
                request = controller.admit(queue, None, length, None, now, client)
            except Overloaded:
                assert len(waiting) >= max_waiting
                assert sharing == 1 or (held[client] + 1) * sharing > max_waiting, "it has its share"
                continue
            for displaced in request.displaced:
                assert held[displaced.client] * sharing > max_waiting, "it had more than its share"
                waiting.remove(displaced)
            waiting.append(request)
        assert queue.rows == len(waiting) <= max_waiting
        assert queue.tokens == sum(request.length for request in waiting)
    while waiting:
        run(controller, now)
        waiting = [request for request in waiting if request.waiting]
    assert queue.rows == queue.tokens == 0


@pytest.mark.parametrize("clients", [1, 2, 5])
def test_room_is_what_is_accepted(clients: int) -> None:
    controller, queue = open_queue(max_waiting=20)
    for client in range(1, clients):
        controller.admit(queue, 0, 5, None, 0.0, f"other{client}")
    for name in ("flood", "other1"):
        room = queue.room(name)
        for number in range(room):
            controller.admit(queue, number, 5, None, 0.0, name)
        with pytest.raises(Overloaded):
            controller.admit(queue, 0, 5, None, 0.0, name)
        if clients == 1:
            break


def test_room_ends_with_the_tokens() -> None:
    controller, queue = open_queue(max_waiting_tokens=100)
    controller.admit(queue, 0, 100, None, 0.0, "a")
    assert queue.room("a") == 0
    assert queue.room("b") == 1

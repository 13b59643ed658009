"""Clients with weights: while all of them wait, each gets tokens and places of the queue in proportion to its weight."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palm_serve.batching import AdmissionController, BatchLimits
from palm_serve.errors import Overloaded, Unmeetable
from palm_serve.types import Priority

LONGEST = 40


def open_queue(weights: dict[str, float], **limits: int) -> tuple[AdmissionController[Any], Any]:
    controller: AdmissionController[Any] = AdmissionController(lambda client: weights.get(client, 1.0))
    queues = controller.open(BatchLimits(**limits), lambda rows, length: rows * length)
    return controller, queues[Priority.INTERACTIVE]


def served_tokens(
    controller: AdmissionController[Any], queue: Any, lengths: Sequence[int], clients: int
) -> Counter[str]:
    """Run batches while all clients wait, and return the tokens that each has had."""
    served: Counter[str] = Counter()
    number = 0
    for _ in range(300):
        for client in range(clients):
            while number_waiting(queue, str(client)) < 40:
                controller.admit(queue, None, lengths[number % len(lengths)], None, 0.0, str(client))
                number += 1
        batch = controller.next_batch(0.0)
        assert batch is not None
        assert batch.requests
        controller.batch_finished(batch, 0.01)
        for request in batch.requests:
            served[request.client] += request.length
    return served


def number_waiting(queue: Any, client: str) -> int:
    return len(queue.due_after(client, -1.0))


@settings(max_examples=25, deadline=None)
@given(
    weights=st.lists(st.floats(0.1, 100), min_size=2, max_size=5),
    lengths=st.lists(st.integers(1, LONGEST), min_size=1, max_size=7),
)
def test_served_tokens_are_proportional_to_weights(weights: list[float], lengths: list[int]) -> None:
    """Start-time fair queueing: a client is never further from its share than a batch and its longest request."""
    by_client = {str(number): weight for number, weight in enumerate(weights)}
    controller, queue = open_queue(by_client, max_rows=8, max_tokens=400, max_waiting=100_000)
    served = served_tokens(controller, queue, lengths, len(weights))
    per_weight = [served[client] / weight for client, weight in by_client.items()]
    # A batch may take what is next after it, up to four batches ahead, in the order of lengths.
    slack = max(5 * 8 * LONGEST / weight for weight in weights)
    assert max(per_weight) - min(per_weight) <= slack
    assert sum(served.values()) > 0


def test_weights_show_in_what_is_served() -> None:
    controller, queue = open_queue({"0": 3.0}, max_rows=8, max_tokens=400, max_waiting=10_000)
    served = served_tokens(controller, queue, [5, 12, 9], 3)
    assert served["0"] == pytest.approx(3 * served["1"], rel=0.1)
    assert served["1"] == pytest.approx(served["2"], rel=0.1)


def test_places_of_a_full_queue_are_shared_by_weight() -> None:
    controller, queue = open_queue({"heavy": 3.0}, max_waiting=8, max_rows=4)
    for number in range(8):
        controller.admit(queue, number, 5, None, 0.0, "heavy")
    assert queue.room("light") == 2
    for number in range(2):
        assert controller.admit(queue, number, 5, None, 0.0, "light").displaced
    with pytest.raises(Overloaded):
        controller.admit(queue, 0, 5, None, 0.0, "light")
    with pytest.raises(Overloaded):
        controller.admit(queue, 0, 5, None, 0.0, "heavy")


def test_heavy_client_takes_places_of_others() -> None:
    controller, queue = open_queue({"heavy": 3.0}, max_waiting=8, max_rows=4)
    for number in range(8):
        controller.admit(queue, number, 5, None, 0.0, "light")
    assert queue.room("heavy") == 6
    for number in range(6):
        assert controller.admit(queue, number, 5, None, 0.0, "heavy").displaced
    with pytest.raises(Overloaded):
        controller.admit(queue, 0, 5, None, 0.0, "heavy")


def test_client_of_least_weight_has_a_place() -> None:
    controller, queue = open_queue({"heavy": 100.0, "light": 0.1}, max_waiting=8, max_rows=4)
    for number in range(8):
        controller.admit(queue, number, 5, None, 0.0, "heavy")
    assert queue.room("light") == 1
    assert len(controller.admit(queue, 0, 5, None, 0.0, "light").displaced) == 1
    assert queue.room("light") == 0


def test_deadline_counts_turns_by_weight() -> None:
    """Beside a full queue, a heavy client can be answered within a deadline that a light one cannot meet."""
    weights = {"heavy": 10.0, "light": 0.1}
    controller, queue = open_queue(weights, max_rows=4, max_tokens=80)
    for _ in range(20):
        queue.latency.run.observe(4 * 10, 0.1)
    for number in range(100):
        controller.admit(queue, number, 10, None, 0.0, "flood")
    with pytest.raises(Unmeetable):
        controller.admit(queue, 0, 10, 0.5, 0.0, "light")
    assert controller.admit(queue, 0, 10, 0.5, 0.0, "heavy").deadline == 0.5


def test_weight_is_asked_for_again_when_a_client_comes_back() -> None:
    """A changed file of tokens holds for what is asked afterwards."""
    weights = {"a": 1.0}
    controller, queue = open_queue(weights, max_waiting=8)
    controller.admit(queue, 0, 5, None, 0.0, "a")
    batch = controller.next_batch(0.0)
    assert batch is not None
    controller.batch_finished(batch, 0.01)
    weights["a"] = 3.0
    for number in range(8):
        controller.admit(queue, number, 5, None, 0.0, "b")
    assert queue.room("a") == 6

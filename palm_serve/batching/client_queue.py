"""Waiting requests of one client in a queue, and the order in which several clients take turns."""

import bisect
import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from palm_serve.batching.queue import QueuedRequest

T = TypeVar("T")

ClientWeight = Callable[[str], float]
"""Returns the weight of a client by its name. It is above zero."""


def equal_weight(client: str) -> float:
    """Return 1, the weight of a client for which none is configured."""
    return 1.0


@dataclass(slots=True, eq=False)
class ClientQueue(Generic[T]):
    """Waiting requests of one client, in the order of `due`."""

    served: float = 0.0
    """Tokens per weight that the client has had, on the virtual clock of the queue. The client with the fewest is next."""
    weight: float = 1.0
    """Tokens that the client gets for each token of a client with weight 1."""
    tokens: int = 0
    requests: "list[QueuedRequest[T]]" = field(default_factory=list)

    def push(self, request: "QueuedRequest[T]") -> None:
        """Insert a request by its due time."""
        bisect.insort(self.requests, request, key=_due)
        self.tokens += request.length

    def withdraw(self, request: "QueuedRequest[T]") -> None:
        """Remove a request."""
        index = bisect.bisect_left(self.requests, request.due, key=_due)
        while self.requests[index] is not request:
            index += 1
        del self.requests[index]
        self.tokens -= request.length

    def due_after(self, due: float) -> "Sequence[QueuedRequest[T]]":
        """Return the requests that are due later than `due`."""
        return self.requests[bisect.bisect_right(self.requests, due, key=_due) :]

    def keep_waiting(self) -> None:
        """Remove the requests that no longer wait. Their tokens are subtracted already."""
        self.requests = [request for request in self.requests if request.waiting]


def in_turn(clients: Iterable[ClientQueue[T]], limit: int) -> "Iterator[QueuedRequest[T]]":
    """Yield the requests that are next if the clients take turns, each as many tokens per weight as the others.

    Of clients that have had the same, the one with the fewest waiting tokens is next: it waits for nobody, and the others
    hardly longer.

    Args:
        clients: clients with waiting requests.
        limit: most requests to yield.
    """
    turns = []
    for number, client in enumerate(clients):
        turns.append((client.served, client.tokens, client.requests[0].due, number, 0, client))
    heapq.heapify(turns)
    for _ in range(limit):
        if not turns:
            return
        served, tokens, _, number, position, client = turns[0]
        request = client.requests[position]
        yield request
        position += 1
        if position == len(client.requests):
            heapq.heappop(turns)
        else:
            next_turn = (
                served + request.length / client.weight,
                tokens,
                client.requests[position].due,
                number,
                position,
                client,
            )
            heapq.heapreplace(turns, next_turn)


def _due(request: "QueuedRequest[T]") -> float:
    return request.due

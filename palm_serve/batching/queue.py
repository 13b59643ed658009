"""Request queue of one model and one priority: clients take turns, the most urgent request of a client first."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from palm_serve.batching.client_queue import ClientQueue, ClientWeight, equal_weight, in_turn
from palm_serve.batching.latency import MARGIN, LatencyModel
from palm_serve.batching.plan import BatchLimits, Costs, plan_batch

T = TypeVar("T")

_MEAN_RATE = 0.1
"""Weight of the last batch in the running means over batches."""
_DECAY = 0.01
"""Share of the tokens counted so far that each batch removes."""
_LARGEST_PADDING = 0.5
_PRESSING_DIVISOR = 4
"""At most this share of a batch's rows, as a divisor, is pressing. More of them find others of their length."""
_BATCHES_AHEAD = 4
"""Full batches of requests that a plan looks at while several clients wait."""


@dataclass(slots=True, eq=False)
class QueuedRequest(Generic[T]):
    """One request of a queue. Times are seconds on the clock of the engine's thread."""

    queue: "Queue[T]"
    payload: T
    length: int
    """Tokens."""
    arrived: float
    due: float
    """Latest time to start."""
    deadline: float
    waiting: bool = True
    abandoned: bool = False
    """True when nobody waits for the answer any more."""
    client: str = ""
    """Name of the client. The clients of a queue take turns."""
    displaced: "Sequence[QueuedRequest[T]]" = ()
    """Requests of clients with more than their share, which lost their places in a full queue to this one."""


@dataclass(slots=True)
class EngineLatency:
    """Latency models of one engine, shared by the priorities of a model."""

    run: LatencyModel = field(default_factory=LatencyModel)
    """Seconds that a batch holds the engine."""
    delivery: LatencyModel = field(default_factory=LatencyModel)
    """Seconds from the engine's result to the last answer of the batch."""


class Queue(Generic[T]):
    """Waiting requests of all clients.

    While several clients wait, each gets as many tokens of the batches per weight as the others (start-time fair queueing): the
    one that has had the fewest is next. A client that had nothing to ask does not catch up on it.

    Args:
        limits: limits of a batch and of the queue.
        latency: latency of the engine, shared by the priorities of a model.
        padded_tokens: maps rows and longest row to the tokens that the engine computes.
        weight: share of the engine, relative to other queues that are never empty.
        client_weight: returns the weight of a client by its name.
    """

    def __init__(
        self,
        limits: BatchLimits,
        latency: EngineLatency,
        padded_tokens: Callable[[int, int], int],
        weight: float = 1.0,
        client_weight: ClientWeight = equal_weight,
    ) -> None:
        self.limits = limits
        self.latency = latency
        self.padded_tokens = padded_tokens
        self.weight = weight
        self._client_weight = client_weight
        self.served = 0.0
        """Seconds of engine time per weight. The queue with the least runs next."""
        self.rows = 0
        self.tokens = 0
        self._clients: dict[str, ClientQueue[T]] = {}
        """Clients with waiting requests."""
        self._total_weight = 0.0
        """Weight of these clients."""
        self._idle_clients: dict[str, float] = {}
        """`ClientQueue.served` of clients without a waiting request that are ahead of the virtual clock."""
        self._virtual_time = 0.0
        self._strict_limits = replace(limits, free_padding=0)
        # Tokens of the last batches, without and with padding.
        self._tokens_run = self._padded_run = 0.0
        # Means over batches that left requests waiting.
        self._mean_rows = float(limits.max_rows)
        self._mean_tokens = limits.max_tokens / 2
        self._mean_padding = limits.max_padding

    @property
    def costs(self) -> Costs:
        """Predicted duration of one batch."""
        run = self.latency.run
        next_tokens = min(int(self._mean_tokens), self.tokens)
        costs = run.costs
        delivery = self.latency.delivery.predict(next_tokens)
        return Costs(costs.per_batch, costs.per_token, MARGIN * run.spread, delivery, run.overhead)

    def engine_seconds(self, rows: int, tokens: int) -> float:
        """Predict the engine time of `rows` requests with `tokens` tokens in total, in batches as they were lately."""
        if not rows:
            return 0.0
        costs = self.latency.run.costs
        batches = math.ceil(rows / self._mean_rows)
        return batches * costs.per_batch + costs.per_token * tokens / (1 - self._mean_padding)

    def next_batch_seconds(self, length: int) -> float:
        """Predict the engine time of the batch that one more request of `length` tokens would join.

        The batch holds everything that waits, up to the mean size of the last batches.
        """
        return self.latency.run.predict(max(length, min(int(self._mean_tokens), self.tokens + length)))

    def batches(self, rows: int, tokens: int) -> float:
        """Predict how many batches `rows` requests with `tokens` tokens in total fill, if these are as they were lately."""
        return max(rows / self._mean_rows, tokens / (1 - self._mean_padding) / self._mean_tokens)

    def push(self, request: QueuedRequest[T]) -> None:
        """Insert a request of its client by its due time."""
        client = self._clients.get(request.client)
        if client is None:
            served = self._idle_clients.pop(request.client, 0.0)
            weight = self._client_weight(request.client)
            client = self._clients[request.client] = ClientQueue(max(served, self._virtual_time), weight)
            self._total_weight += weight
        client.push(request)
        self.rows += 1
        self.tokens += request.length

    def withdraw(self, request: QueuedRequest[T]) -> None:
        """Remove a waiting request."""
        client = self._clients[request.client]
        client.withdraw(request)
        self._removed(request)
        if not client.requests:
            self._leave(request.client)

    def before(self, client_name: str, length: int) -> tuple[int, int]:
        """Predict the rows and tokens that run before one more request of a client.

        These are its own, and of each other client as much as it gets in the same turns.
        """
        own_rows, own_tokens, weight, total_weight = self._holding(client_name)
        if own_rows == self.rows:
            return own_rows, own_tokens
        turns = (total_weight - weight) / weight
        rows = own_rows + min(self.rows - own_rows, math.ceil(turns * (own_rows + 1)))
        tokens = own_tokens + min(self.tokens - own_tokens, math.ceil(turns * (own_tokens + length)))
        return rows, tokens

    def due_after(self, client_name: str, due: float) -> Sequence[QueuedRequest[T]]:
        """Return the requests of a client that are due later than `due`."""
        client = self._clients.get(client_name)
        return () if client is None else client.due_after(due)

    def is_full(self, length: int) -> bool:
        """Return True if there is no room for one more request of `length` tokens."""
        limits = self.limits
        return self.rows >= limits.max_waiting or (self.rows > 0 and self.tokens + length > limits.max_waiting_tokens)

    def room(self, client_name: str) -> int:
        """Return how many short requests of a client the queue takes now: what is free, or the rest of its share."""
        limits = self.limits
        if self.rows and self.tokens >= limits.max_waiting_tokens:
            return int(self.within_share(client_name, 1))
        own_rows, _, weight, total_weight = self._holding(client_name)
        free = limits.max_waiting - self.rows
        if own_rows == self.rows:
            return free
        return max(free, int(self._share_of_rows(weight, total_weight)) - own_rows)

    def within_share(self, client_name: str, length: int) -> bool:
        """Return True if a client holds less than its share of the queue, with one more request of `length` tokens.

        Others have more than theirs then, where the queue is full.
        """
        own_rows, own_tokens, weight, total_weight = self._holding(client_name)
        if own_rows == self.rows:
            return False
        share_of_tokens = self.limits.max_waiting_tokens * weight / total_weight
        return own_rows + 1 <= self._share_of_rows(weight, total_weight) and own_tokens + length <= share_of_tokens

    def _holding(self, client_name: str) -> tuple[int, int, float, float]:
        """Return the waiting rows and tokens of a client, its weight, and the weight of all clients that wait, with it."""
        client = self._clients.get(client_name)
        if client is None:
            weight = self._client_weight(client_name)
            return 0, 0, weight, self._total_weight + weight
        return len(client.requests), client.tokens, client.weight, self._total_weight

    def _share_of_rows(self, weight: float, total_weight: float) -> float:
        """Return the places of a client while several wait. A client of small weight has one, if there is one for each."""
        places = self.limits.max_waiting
        share_of_rows = places * weight / total_weight
        return share_of_rows if share_of_rows >= 1 else max(share_of_rows, min(1.0, places / (len(self._clients) + 1)))

    def displace(self, length: int) -> list[QueuedRequest[T]]:
        """Make room for a request of `length` tokens: remove the least urgent ones of the clients that hold most per weight."""
        displaced = []
        while self.is_full(length):
            size = _rows_per_weight if self.rows >= self.limits.max_waiting else _tokens_per_weight
            largest = max(self._clients.values(), key=size)
            request = largest.requests[-1]
            self.withdraw(request)
            displaced.append(request)
        return displaced

    def take(self, now: float, only_request: bool = False) -> tuple[list[QueuedRequest[T]], list[QueuedRequest[T]]]:
        """Remove and return the requests of the next batch, and those that can no longer be answered in time.

        Args:
            now: current time, in seconds.
            only_request: true if one request waits for the engine. It runs unless its deadline has passed, whatever is predicted.
        """
        padding_allowed = self._padded_run * (1 - self.limits.max_padding) <= self._tokens_run
        waiting, pressing = self._in_turn()
        limits = self.limits if padding_allowed else self._strict_limits
        plan = plan_batch(waiting, now, limits, Costs() if only_request else self.costs, pressing)
        batch = [waiting[index] for index in plan.batch]
        lost = [waiting[index] for index in plan.lost]
        for request in batch:
            client = self._clients[request.client]
            client.served += request.length / client.weight
        changed_clients = {}
        for request in (*batch, *lost):
            self._removed(request)
            client = changed_clients[request.client] = self._clients[request.client]
            client.tokens -= request.length
        for name, client in changed_clients.items():
            client.keep_waiting()
            if not client.requests:
                self._leave(name)
        self._advance()
        if batch:
            self._record(batch)
        return batch, lost

    def _in_turn(self) -> tuple[Sequence[QueuedRequest[T]], int]:
        """Return the waiting requests in the order of their turns, and how many of the first ones are pressing.

        While several clients wait, only the next requests are returned. Beside a client that floods the queue, the few
        requests of others are pressing if it is their turn: they run in one batch. Sorted by length like the rest, each
        of them would need a batch of its own, which is full of the flood's.
        """
        if len(self._clients) == 1:
            (client,) = self._clients.values()
            return client.requests, 0
        max_rows = self.limits.max_rows
        waiting = [*in_turn(self._clients.values(), _BATCHES_AHEAD * max_rows)]
        floods = set()
        for name, client in self._clients.items():
            if len(client.requests) > max_rows:
                floods.add(name)
        if not floods:
            return waiting, 0
        pressing: list[QueuedRequest[T]] = []
        unhurried: list[QueuedRequest[T]] = []
        for request in waiting[:max_rows]:
            (unhurried if request.client in floods else pressing).append(request)
        if len(pressing) > max_rows // _PRESSING_DIVISOR:
            return waiting, 0
        return pressing + unhurried + waiting[max_rows:], len(pressing)

    def _leave(self, client_name: str) -> None:
        """Handle a client that has no waiting request any more."""
        client = self._clients.pop(client_name)
        self._total_weight -= client.weight
        if client.served > self._virtual_time:
            self._idle_clients[client_name] = client.served
        if not self._clients:
            # Nobody waits, so nobody is behind.
            self._reset_clients()

    def _advance(self) -> None:
        """Advance the virtual clock to the client that has had the fewest tokens. One that comes now begins there."""
        if not self._clients:
            return
        self._virtual_time = max(self._virtual_time, min(self._clients.values(), key=_served).served)
        for name, served in [*self._idle_clients.items()]:
            if served <= self._virtual_time:
                del self._idle_clients[name]

    def drain(self) -> list[QueuedRequest[T]]:
        """Remove and return all requests."""
        requests: list[QueuedRequest[T]] = []
        for client in self._clients.values():
            requests += client.requests
        self._clients.clear()
        self._reset_clients()
        for request in requests:
            self._removed(request)
        return requests

    def _reset_clients(self) -> None:
        """Forget what clients have had, once none waits."""
        self._idle_clients.clear()
        self._virtual_time = 0.0
        self._total_weight = 0.0

    def _record(self, batch: Sequence[QueuedRequest[T]]) -> None:
        """Update the running means with a batch."""
        tokens = 0
        longest = 0
        for request in batch:
            tokens += request.length
            longest = max(longest, request.length)
        padded = len(batch) * longest
        self._tokens_run += tokens - _DECAY * self._tokens_run
        self._padded_run += padded - _DECAY * self._padded_run
        if self.rows:
            padding = min(1 - tokens / padded, _LARGEST_PADDING)
            self._mean_rows += _MEAN_RATE * (len(batch) - self._mean_rows)
            self._mean_tokens += _MEAN_RATE * (padded - self._mean_tokens)
            self._mean_padding += _MEAN_RATE * (padding - self._mean_padding)

    def _removed(self, request: QueuedRequest[T]) -> None:
        """Update the counts of the queue after a request was removed."""
        request.waiting = False
        self.rows -= 1
        self.tokens -= request.length


def _served(client: ClientQueue[T]) -> float:
    return client.served


def _rows_per_weight(client: ClientQueue[T]) -> float:
    return len(client.requests) / client.weight


def _tokens_per_weight(client: ClientQueue[T]) -> float:
    return client.tokens / client.weight

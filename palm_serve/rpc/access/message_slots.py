"""Slots for calls whose message has not arrived whole. They limit the bytes that gRPC holds of such messages.

Without a slot gRPC receives no more of a message than the flow-control window of its call (`WINDOW_BYTES`). With a slot it
receives the whole message. Most messages fit into the window, so a slot is usually held for less than a millisecond.

Where a transport knows beforehand that a message fits into the window, the message needs no slot: over HTTP a client that
sends slowly would keep the slots of its address from others, such as all that are behind the same proxy.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from palm_serve.config import MIB
from palm_serve.errors import DeadlineExceeded, Overloaded, PalmServeError
from palm_serve.rpc.call_context import CallAborted, CallContext

WINDOW_BYTES = 16 * 1024
"""Flow-control window of a call, the value of `grpc.http2.lookahead_bytes`."""
_SLOTS_BYTES = 24 * MIB
_WAITING_BYTES = 8 * MIB
_MAX_SLOTS = 512
_MAX_WAITING = _WAITING_BYTES // WINDOW_BYTES
"""Number of calls that wait for a slot, or receive a short message without one. Each holds up to its window.

More may wait while all messages arrive at once, such as those of a burst.
"""
_GRACE_S = 1.0
"""Time after which a call loses its slot to a connection that holds fewer."""
_SHORT_TIMEOUT_S = 5.0
"""Time in which a short message, such as that of a health check, must arrive whole."""
_OWN_GRACE_S = 5.0
"""Time after which a call loses its slot to another call of the same connection."""
_SHORT_GRACE_S = 0.25
"""Time after which a call with a short message loses its slot to any other."""
_LOOK_INTERVAL_S = 0.25
"""Interval at which calls lose their slots while others wait."""
_JITTER_S = 0.05
_MOST_READ = 300
"""Messages of a connection that are remembered. Each allows it one reset."""
_MOST_CONNECTIONS = 4096
"""Connections that are remembered."""
_REASON = "messages"

Refuse = Callable[[CallContext, Any, PalmServeError], Coroutine[Any, Any, None]]


class Sender:
    """The sender of a message: the name of its client, its connection, and whether its messages are always short."""

    __slots__ = ("connection", "name", "short")

    def __init__(self, name: str, connection: str, short: bool = False) -> None:
        self.name = name
        self.connection = connection
        self.short = short


class _Reception:
    """One call that awaits its message. Every call makes one, so it is no dataclass, which takes twice as long."""

    __slots__ = ("arrived", "began", "call", "context", "error", "sender", "turn")

    def __init__(self, context: CallContext, call: Any, sender: Sender, arrived: float) -> None:
        self.context = context
        self.call = call
        self.sender = sender
        self.arrived = self.began = arrived
        """Times of the arrival, and of getting a slot."""
        self.turn: asyncio.Future[None] | None = None
        """Future of a call that waits for a slot."""
        self.error: PalmServeError | None = None
        """Error with which the call was ended."""


class MessageSlots:
    """Receives messages of calls. Belongs to one event loop.

    Connections get slots in turn. One slot is kept for clients that hold none, so a client cannot keep others waiting.

    Args:
        message_bytes: largest message.
        timeout_s: time in which a message must arrive whole, in seconds.
        most_waiting: number of calls that may wait while all messages arrive at once.
    """

    refuse: Refuse
    """Ends a call with an error, which also ends its read."""
    on_reset: Callable[[str], None]
    """Called with the connection of a call that its client has cancelled before the message was read.

    It is not called for as many of them as messages of the connection were read. A client of many calls, of which it cancels
    some, pays for these by the others.
    """

    def __init__(self, message_bytes: int, timeout_s: float, most_waiting: int = 0) -> None:
        self.on_reset = lambda connection: None
        self._limit = min(max(2, _SLOTS_BYTES // message_bytes), _MAX_SLOTS)
        self._client_limit = max(1, self._limit - 2)
        self._timeout_s = timeout_s
        self._most_waiting = max(most_waiting, _MAX_WAITING)
        self._receiving: dict[_Reception, None] = {}
        """Calls that hold a slot."""
        self._short: dict[_Reception, None] = {}
        """Calls whose message needs no slot, the oldest first."""
        self._read: dict[str, int] = {}
        """Messages that were read, by connection, less the resets that they have allowed."""
        self._held: defaultdict[str, int] = defaultdict(int)
        """Slots held, by client and by connection."""
        self._queues: dict[str, deque[_Reception]] = {}
        self._waiting = 0
        self._timer: asyncio.TimerHandle | None = None
        self._refusals: set[asyncio.Task[None]] = set()

    async def receive(self, context: CallContext, call: Any, sender: Sender) -> Any:
        """Receive the first message of a call. The read is not cancelled, because gRPC writes to the memory of a pending one.

        Args:
            context: the call in gRPC.
            call: the call in the server, for `refuse`.
            sender: sender of the message.

        Returns:
            The message, or NO_MESSAGE.

        Raises:
            DeadlineExceeded: if the message did not arrive whole in time. The call has been refused already.
            Overloaded: if too many calls wait, or another call needed the slot. In the second case the call has been refused.
        """
        loop = asyncio.get_running_loop()
        reception = _Reception(context, call, sender, loop.time())
        # The context of gRPC does not know the length.
        declared_bytes = getattr(context, "declared_bytes", None)
        try:
            if declared_bytes is not None and declared_bytes <= WINDOW_BYTES:
                self._make_place()
                self._short[reception] = None
            elif (not self._waiting or sender.connection not in self._queues) and self._has_slot(sender.name):
                self._begin(reception)
            else:
                await self._wait(reception, loop)
            if self._timer is None:
                self._set_timer(loop, reception.arrived + self._time_limit(reception))
            message = await context.read()
        except asyncio.CancelledError:
            self._count_reset(context, sender)
            raise
        except CallAborted as abort:
            if reception.error is None:
                raise
            raise reception.error from abort
        finally:
            self._short.pop(reception, None)
            if reception in self._receiving:
                self._end(reception)
        if isinstance(message, bytes):
            self._count_read(sender.connection)
        return message

    def _count_read(self, connection: str) -> None:
        """Count a message that was read."""
        read = self._read.get(connection, 0)
        if not read and len(self._read) >= _MOST_CONNECTIONS:
            self._read.clear()
        self._read[connection] = min(read + 1, _MOST_READ)

    def _count_reset(self, context: CallContext, sender: Sender) -> None:
        """Count a call that was cancelled before its message was read, unless its time is over."""
        remaining_s = context.time_remaining()
        # A client also resets a call at its deadline, which is that of the server within the jitter of the network.
        if remaining_s is not None and remaining_s <= _JITTER_S:
            return
        read = self._read.get(sender.connection, 0)
        if read:
            self._read[sender.connection] = read - 1
        else:
            self.on_reset(sender.connection)

    def refuse_all(self, error: PalmServeError) -> None:
        """End every call that awaits its message with an error."""
        for reception in [*self._receiving, *self._short, *self._queued()]:
            self._refuse(reception, error)

    def _make_place(self) -> None:
        """End the oldest call that has no slot, if there are as many as may be. An honest one lasts for a millisecond."""
        if not self._is_full(self._waiting + len(self._short), _MAX_WAITING):
            return
        for reception in self._short:
            if reception.error is None:
                message = "the message must arrive whole, at once: other calls need its place. Send it again."
                self._refuse(reception, Overloaded(message, reason=_REASON))
                return

    def _is_full(self, waiting: int, limit: int) -> bool:
        """Return True if no more than `waiting` calls may wait. The limit holds once a message does not arrive at once."""
        return waiting >= limit and (waiting >= self._most_waiting or self._stalls())

    def _stalls(self) -> bool:
        """Return True if a message has been arriving for long."""
        now = asyncio.get_running_loop().time()
        # Both are in the order of their begin.
        for receptions in (self._receiving, self._short):
            oldest = next(iter(receptions), None)
            if oldest is not None and oldest.began + _GRACE_S <= now:
                return True
        return False

    def _has_slot(self, client: str) -> bool:
        free = self._limit - len(self._receiving)
        client_slots = self._held.get(client, 0)
        return free > 0 and client_slots < self._client_limit and (free > 1 or not client_slots)

    def _begin(self, reception: _Reception) -> None:
        self._receiving[reception] = None
        self._held[reception.sender.name] += 1
        self._held[reception.sender.connection] += 1

    def _end(self, reception: _Reception) -> None:
        del self._receiving[reception]
        slots = self._held
        for name in (reception.sender.name, reception.sender.connection):
            if slots[name] == 1:
                del slots[name]
            else:
                slots[name] -= 1
        if self._waiting:
            self._give_turns()

    async def _wait(self, reception: _Reception, loop: asyncio.AbstractEventLoop) -> None:
        """Wait for a slot. The reception has begun when this returns."""
        connection = reception.sender.connection
        self._make_place()
        in_connection = len(self._queues.get(connection, ()))
        if self._is_full(self._waiting, _MAX_WAITING) or self._is_full(in_connection, _MAX_WAITING // 2):
            raise _too_many()
        reception.turn = loop.create_future()
        self._queues.setdefault(connection, deque()).append(reception)
        self._waiting += 1
        if self._waiting == 1:
            self._set_timer(loop, reception.arrived + _LOOK_INTERVAL_S)
        try:
            await reception.turn
        except BaseException:
            self._leave(reception)
            raise

    def _leave(self, reception: _Reception) -> None:
        """Remove a waiting call, if it still waits."""
        connection = reception.sender.connection
        queue = self._queues.get(connection, deque())
        if reception not in queue:
            return
        queue.remove(reception)
        self._waiting -= 1
        if not queue:
            del self._queues[connection]

    def _queued(self) -> Iterator[_Reception]:
        for queue in self._queues.values():
            yield from queue

    def _give_turns(self) -> None:
        """Give free slots to waiting calls, first to connections that hold the fewest."""
        now = asyncio.get_running_loop().time()
        while self._waiting:
            firsts = []
            for queue in self._queues.values():
                if self._has_slot(queue[0].sender.name):
                    firsts.append(queue[0])
            if not firsts:
                return
            reception = min(firsts, key=lambda first: (self._held.get(first.sender.connection, 0), first.arrived))
            self._leave(reception)
            if reception.turn is not None and not reception.turn.done():
                reception.began = now
                self._begin(reception)
                reception.turn.set_result(None)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """End the calls whose time is over, and set the timer for the next one."""
        now = loop.time()
        for reception in [*self._receiving, *self._short, *self._queued()]:
            limit_s = self._time_limit(reception)
            if reception.arrived + limit_s <= now:
                self._refuse(reception, _too_late(limit_s))
        self._make_room(now)
        self._end_surplus()
        self._timer = None
        if self._waiting:
            self._set_timer(loop, now + _LOOK_INTERVAL_S)
        elif self._receiving or self._short:
            due = now + self._timeout_s
            for reception in (*self._receiving, *self._short):
                due = min(due, reception.arrived + self._time_limit(reception))
            self._set_timer(loop, max(due, now + _LOOK_INTERVAL_S))

    def _set_timer(self, loop: asyncio.AbstractEventLoop, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(when, self._look, loop)

    def _make_room(self, now: float) -> None:
        """End the calls that have held a slot for long while another connection, or their own, waits for one."""
        holders = sorted(self._receiving, key=lambda holder: (-self._held[holder.sender.connection], holder.began))
        for connection, queue in self._queues.items():
            needed = len(queue)
            for holder in holders:
                if not needed:
                    break
                same_connection = holder.sender.connection == connection
                grace_s = _OWN_GRACE_S if same_connection else _GRACE_S
                if holder.sender.short:
                    grace_s = _SHORT_GRACE_S
                fair = same_connection or self._held[holder.sender.connection] > self._held.get(connection, 0) + 1
                if fair and holder.error is None and holder.began + grace_s <= now:
                    message = "the message must arrive whole, at once: other calls wait for its place. Send it again."
                    self._refuse(holder, Overloaded(message, reason=_REASON))
                    needed -= 1

    def _end_surplus(self) -> None:
        """End the newest waiting calls above the limits once a message does not arrive at once. Connections share them."""
        if not self._stalls():
            return
        places = _MAX_WAITING
        queues = sorted(self._queues.values(), key=len)
        for number, queue in enumerate(queues):
            fair_number = places // (len(queues) - number)
            kept_number = min(len(queue), fair_number, _MAX_WAITING // 2)
            places -= kept_number
            for reception in list(queue)[kept_number:]:
                self._refuse(reception, _too_many())

    def _time_limit(self, reception: _Reception) -> float:
        """Return the seconds in which a message must arrive whole."""
        return min(self._timeout_s, _SHORT_TIMEOUT_S) if reception.sender.short else self._timeout_s

    def _refuse(self, reception: _Reception, error: PalmServeError) -> None:
        if reception.error is not None:
            return
        reception.error = error
        if reception in self._receiving or reception in self._short:
            task = asyncio.get_running_loop().create_task(self._send_refusal(reception, error))
            self._refusals.add(task)
            task.add_done_callback(self._refusals.discard)
        elif reception.turn is not None and not reception.turn.done():
            reception.turn.set_exception(error)

    async def _send_refusal(self, reception: _Reception, error: PalmServeError) -> None:
        # The message may have arrived since the refusal was decided. Then the call goes on.
        if reception in self._receiving or reception in self._short:
            await self.refuse(reception.context, reception.call, error)


def _too_many() -> Overloaded:
    return Overloaded(
        f"at most {_MAX_WAITING // 2:,} calls of a connection may wait to send their messages while some arrive slowly. "
        "Send messages whole, at once.",
        reason=_REASON,
    )


def _too_late(limit_s: float) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"the message must arrive whole within {limit_s:g} s, got a part of it. Send less at once, or faster."
    )

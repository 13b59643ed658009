"""Limit of the answers that clients do not read.

The call of an answer has ended for the server once the answer is computed. gRPC keeps it until the client has taken it, which may be never:
a client that gives its calls no flow-control window could fill the memory with answers, within all limits of its calls.
"""

from collections import Counter
from functools import partial
from typing import Any

from palm_serve.config import MIB
from palm_serve.errors import Overloaded
from palm_serve.rpc.call_context import CallContext

CLIENT_BYTES = 32 * MIB
"""Limit of one client."""
TOTAL_BYTES = 256 * MIB
"""Shared by the clients that hold answers, where that is less for each."""
_CALL_BYTES = 4096
"""What gRPC holds of a call beside its answer."""
_RETRY_S = 1.0


class UnreadAnswers:
    """Counts the bytes of the answers of each client that gRPC holds. Belongs to one event loop."""

    def __init__(self) -> None:
        self._held: Counter[str] = Counter()

    def check(self, client: str) -> None:
        """Check that a client has room for one more answer. Raises Overloaded."""
        size = self._held.get(client, 0)
        if not size:
            return
        limit = min(CLIENT_BYTES, TOTAL_BYTES // len(self._held))
        if size >= limit:
            raise Overloaded(
                f"the client must have at most {limit:,} bytes of answers that it has not read, got {size:,}. Read them first.",
                _RETRY_S,
                "unread_answers",
            )

    def hold(self, client: str, context: CallContext, answer_bytes: int) -> None:
        """Count an answer until its call has ended for gRPC. Other transports hold one answer of each connection.

        Args:
            client: name of the client.
            context: the call in its transport.
            answer_bytes: size of the answer.

        Raises:
            Overloaded: the client has no room. Its calls in progress may have filled it since this one was admitted.
        """
        self.check(client)
        add_done_callback = getattr(context, "add_done_callback", None)
        if add_done_callback is None:
            return
        size = answer_bytes + _CALL_BYTES
        self._held[client] += size
        add_done_callback(partial(self._release, client, size))

    def _release(self, client: str, size: int, context: Any) -> None:
        self._held[client] -= size
        if not self._held[client]:
            del self._held[client]

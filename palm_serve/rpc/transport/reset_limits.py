"""Limit of the calls that an address resets before their message is read (HTTP/2 rapid reset, CVE-2023-44487).

Such a call costs its sender nothing, not even a stream. The server makes a handler for it, and calls of others wait meanwhile.
"""

import time
from collections.abc import Callable

from palm_serve.rpc.access.rate_limits import RateLimit

RESETS_PER_S = 100.0
RESET_BURST = 300
"""Calls that an address may reset a second, and at once. An ordinary client resets a call when its caller loses interest."""
RESETS_OF_CLOSED = 32
"""Most resets that count of a connection that has been closed. Clients that are stopped leave all their calls."""
FIRST_BLOCK_S = 10.0
"""Time for which an address is blocked. It doubles with each time."""
LONGEST_BLOCK_S = 600.0
_FORGET_S = 600.0
"""Time after a block after which the next one is short again."""


class ResetLimits:
    """Decides which addresses are blocked. It belongs to one thread.

    Args:
        clock: returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rate = RateLimit(RESETS_PER_S, RESET_BURST, clock)
        self._blocks: dict[str, tuple[float, float]] = {}
        """End and length of the last block of an address."""

    def charge(self, address: str, resets: int, is_open: bool) -> bool:
        """Count the resets of a connection. Return true if its address has exceeded the limit.

        Args:
            address: address of the client.
            resets: calls that were reset before their message was read.
            is_open: true if the connection is still open.
        """
        self._rate.spend(address, resets if is_open else min(resets, RESETS_OF_CLOSED))
        return self._rate.pause_s(address) > 0

    def block(self, address: str) -> None:
        """Block an address, for twice as long as the last time."""
        now = self._clock()
        end, length = self._blocks.get(address, (0.0, FIRST_BLOCK_S / 2))
        if end > now:
            return
        length = min(2 * length, LONGEST_BLOCK_S)
        self._blocks[address] = now + length, length

    def blocked(self) -> list[str]:
        """Return the addresses that are blocked, the newest last."""
        now = self._clock()
        blocked = []
        for address, (end, _) in [*self._blocks.items()]:
            if end > now:
                blocked.append(address)
            elif end + _FORGET_S < now:
                del self._blocks[address]
        return blocked

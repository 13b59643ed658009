"""Waiting time of batches and items of streams before they are refused."""

import time

_PATIENCE_S = 0.25
"""Longest time that a batch, or an item of a stream, waits before it is refused because the queue is full."""


def patience_s(deadline: float | None) -> float:
    """Return how long a batch waits for room before it is refused, in seconds. Half of its time is left afterwards.

    Args:
        deadline: in seconds on the clock of `time.monotonic()`. None: none.
    """
    if deadline is None:
        return _PATIENCE_S
    return min(_PATIENCE_S, max(0.0, (deadline - time.monotonic()) / 2))

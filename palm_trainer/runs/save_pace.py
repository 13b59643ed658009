"""Pace of the saves of a training: a small model is saved after each evaluation, a large one as often as its training can bear.

With few rows an epoch takes a second, and so does it to write an encoder with the state of its optimizer.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_TRAINING_PER_SAVE = 20
"""Seconds of training for each second of a save."""
_SHORT_S = 0.1
"""A save that takes no longer is made whenever it is asked for."""


class SavePace:
    """Tells when a checkpoint may be written again. Saves then take about a twentieth of the time.

    Args:
        clock: seconds on any clock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next = -float("inf")

    @property
    def is_due(self) -> bool:
        """True before the first save, and once enough time has passed since the last one."""
        return self._clock() >= self._next

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Measure the save that is made meanwhile."""
        began = self._clock()
        yield
        ended = self._clock()
        took_s = ended - began
        self._next = ended if took_s <= _SHORT_S else ended + _TRAINING_PER_SAVE * took_s

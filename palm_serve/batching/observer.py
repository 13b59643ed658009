"""What a scheduler tells those who count."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class FinishedBatch:
    """One batch."""

    rows: int
    tokens: int
    padded_tokens: int
    waits_s: Sequence[float]
    """How long each row waited."""
    engine_s: float
    service_s: float
    """Model and decoding together."""
    wasted: int = 0
    """Rows whose caller had left, or whose deadline had passed, when the engine began. Meant to be 0."""
    late: int = 0
    """Rows whose caller left, or whose deadline passed, while the batch ran."""


class Observer(Protocol):
    """Told what the scheduler does; every call is quick and on the event loop."""

    def batch_finished(self, batch: FinishedBatch) -> None:
        """A batch ran."""

    def refused(self) -> None:
        """A request found the queue full."""

    def unmeetable(self) -> None:
        """A request was refused because its deadline could not be met."""

    def expired(self) -> None:
        """A request's deadline passed, or could not be met any more, before a row was spent on it."""

    def cancelled(self) -> None:
        """A request was given up before a row was spent on it."""

    def engine_failed(self) -> None:
        """The engine broke, or its thread crashed."""


class SilentObserver:
    """An observer that does nothing."""

    def batch_finished(self, batch: FinishedBatch) -> None:
        """Ignored."""

    def refused(self) -> None:
        """Ignored."""

    def unmeetable(self) -> None:
        """Ignored."""

    def expired(self) -> None:
        """Ignored."""

    def cancelled(self) -> None:
        """Ignored."""

    def engine_failed(self) -> None:
        """Ignored."""

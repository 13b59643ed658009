"""Events of a scheduler that metrics count."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class FinishedBatch:
    """Figures of one batch that has run."""

    rows: int
    tokens: int
    padded_tokens: int
    waits_s: Sequence[float]
    """Seconds that each row waited."""
    engine_s: float
    """Seconds of the engine's run."""
    service_s: float
    """Seconds of the engine's run and decoding together."""
    wasted: int = 0
    """Rows whose caller had left, or whose deadline had passed, before the engine began. Should be 0."""
    late: int = 0
    """Rows whose caller left, or whose deadline passed, while the batch ran."""


class Observer(Protocol):
    """Receives the events of a scheduler. Each call must be quick: it runs on the event loop."""

    def batch_finished(self, batch: FinishedBatch) -> None:
        """Record a batch that has run."""

    def refused(self) -> None:
        """Count a request that was refused because the queue was full."""

    def unmeetable(self) -> None:
        """Count a request that was refused because its deadline could not be met."""

    def expired(self) -> None:
        """Count a request whose deadline passed, or could no longer be met, before it was run."""

    def cancelled(self) -> None:
        """Count a request that was cancelled before it was run."""

    def engine_failed(self) -> None:
        """Count a failure of the engine or of its thread."""


class SilentObserver:
    """An observer that records nothing."""

    def batch_finished(self, batch: FinishedBatch) -> None:
        """Ignore the event."""

    def refused(self) -> None:
        """Ignore the event."""

    def unmeetable(self) -> None:
        """Ignore the event."""

    def expired(self) -> None:
        """Ignore the event."""

    def cancelled(self) -> None:
        """Ignore the event."""

    def engine_failed(self) -> None:
        """Ignore the event."""

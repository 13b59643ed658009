"""Callbacks of one model for the engine thread, and the outcome of a batch that they deliver."""

from dataclasses import dataclass
from typing import Any, Protocol

from palm_serve.batching.admission import ScheduledBatch
from palm_serve.batching.queue import QueuedRequest


@dataclass(slots=True)
class BatchOutcome:
    """Result of a batch. Times are seconds on the clock of the engine's thread."""

    results: Any = None
    error: BaseException | None = None
    wasted: int = 0
    """Rows that were abandoned or expired before the engine began."""
    ended: float = 0.0
    """When the engine's run ended."""


class BatchHandler(Protocol):
    """Callbacks of one model. The engine thread and the decoding thread call them."""

    def run(self, batch: ScheduledBatch[Any]) -> Any:
        """Run the engine on a batch."""

    def decode(self, batch: ScheduledBatch[Any], values: Any) -> Any:
        """Decode the values of `run` into one result for each request."""

    def probe(self) -> None:
        """Try the engine. Raise an exception if it does not work."""

    def interrupt(self) -> None:
        """Ask the engine's run in progress to end. Called in another thread than that of the run."""

    def deliver(self, batch: ScheduledBatch[Any], outcome: BatchOutcome) -> None:
        """Deliver the outcome of a batch to its callers."""

    def reject(self, requests: list[QueuedRequest[Any]]) -> None:
        """Reject requests whose deadline can no longer be met."""

    def engine_failed(self, error: BaseException, requests: list[QueuedRequest[Any]]) -> None:
        """Handle a broken engine. `requests` were queued for it."""

    def engine_recovered(self) -> None:
        """Handle an engine that works again."""

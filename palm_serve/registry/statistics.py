"""Statistics of one model since it was loaded, as clients of the Open Inference Protocol read them."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from palm_serve.types import Prediction


@dataclass(slots=True)
class DurationTotal:
    """Number of events and their total duration in nanoseconds."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int) -> None:
        """Add one event of `ns` nanoseconds."""
        self.count += 1
        self.ns += ns


@dataclass(slots=True)
class ComputeDurations:
    """Durations of tokenization, inference and decoding."""

    tokenize: DurationTotal = field(default_factory=DurationTotal)
    inference: DurationTotal = field(default_factory=DurationTotal)
    decode: DurationTotal = field(default_factory=DurationTotal)

    def add(self, tokenize_us: int, inference_us: int, decode_us: int) -> None:
        """Add the durations of one text or one batch.

        Args:
            tokenize_us: microseconds of tokenization.
            inference_us: microseconds of the engine's run.
            decode_us: microseconds of decoding.
        """
        self.tokenize.add(tokenize_us * 1000)
        self.inference.add(inference_us * 1000)
        self.decode.add(decode_us * 1000)


class ModelStatistics:
    """Counts texts and batches of one model.

    Each text counts the whole inference and decoding of its batch, as in Triton. The engine's thread and the event loop
    both write, but never the same sum.
    """

    def __init__(self) -> None:
        self.texts = 0
        self.batches = 0
        self.last_ms = 0
        """Unix time of the last batch, in milliseconds. Zero: none ran yet."""
        self.success = DurationTotal()
        self.failure = DurationTotal()
        self.queue = DurationTotal()
        self.compute = ComputeDurations()
        self.shadowed: Counter[str] = Counter()
        """Mirrored texts, as the shadow of another version.

        `answered`, `dropped` (the engine had other work) or `failed`.
        """
        self.agreement: Counter[tuple[str, bool]] = Counter()
        """Answers by task and by whether the shadow agreed with the stable version."""
        self.repeated: Counter[str] = Counter()
        """Texts answered without a run of their own: `kept` (from the cache) or `shared` (by the run of an equal text)."""
        self.unresolved: Counter[str] = Counter()
        """Values that a resolver did not read, by reason: `failed`, `timeout`, `restarting` or `busy`."""
        self._by_size: dict[int, ComputeDurations] = {}

    @property
    def by_size(self) -> list[tuple[int, ComputeDurations]]:
        """Texts of a batch and the durations of all batches of that size, the smallest size first."""
        return sorted([*self._by_size.items()], key=lambda item: item[0])

    def record_batch(self, predictions: Sequence[Prediction]) -> None:
        """Count a batch that was answered."""
        self.texts += len(predictions)
        self.batches += 1
        self.last_ms = time.time_ns() // 1_000_000
        tokenize_us = 0
        for prediction in predictions:
            timings = prediction.timings
            total_us = timings.tokenize_us + timings.queue_us + timings.inference_us + timings.decode_us
            self.success.add(total_us * 1000)
            self.queue.add(timings.queue_us * 1000)
            self.compute.add(timings.tokenize_us, timings.inference_us, timings.decode_us)
            tokenize_us += timings.tokenize_us
        batch_timings = predictions[0].timings
        durations = self._by_size.setdefault(len(predictions), ComputeDurations())
        durations.add(tokenize_us, batch_timings.inference_us, batch_timings.decode_us)

    def record_failure(self, ns: int) -> None:
        """Count a text that was refused, expired or failed in the model after `ns` nanoseconds."""
        self.failure.add(ns)

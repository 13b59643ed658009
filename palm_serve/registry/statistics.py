"""What a model has done since it was loaded, in sums: what clients of the Open Inference Protocol read."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from palm_serve.types import Prediction


@dataclass(slots=True)
class DurationTotal:
    """How often something took place and how long it took together, nanoseconds."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int) -> None:
        """Once more."""
        self.count += 1
        self.ns += ns


@dataclass(slots=True)
class ComputeDurations:
    """Tokenization, model and decoding."""

    tokenize: DurationTotal = field(default_factory=DurationTotal)
    inference: DurationTotal = field(default_factory=DurationTotal)
    decode: DurationTotal = field(default_factory=DurationTotal)

    def add(self, tokenize_us: int, inference_us: int, decode_us: int) -> None:
        """One text's share, or one batch's."""
        self.tokenize.add(tokenize_us * 1000)
        self.inference.add(inference_us * 1000)
        self.decode.add(decode_us * 1000)


class ModelStatistics:
    """Counts texts and batches of one model. Texts of one batch each count its whole inference and decoding, as in Triton.

    Written from the engine's thread and from the event loop, but no sum from both.
    """

    def __init__(self) -> None:
        self.texts = 0
        self.batches = 0
        self.last_ms = 0
        """Milliseconds since 1970; 0: nothing ran yet."""
        self.success, self.failure, self.queue = DurationTotal(), DurationTotal(), DurationTotal()
        self.compute = ComputeDurations()
        self.shadowed: Counter[str] = Counter()
        """As the shadow of another version: texts that it answered, that were dropped because the engine had other work, that failed."""
        self.agreement: Counter[tuple[str, bool]] = Counter()
        """Task, and whether the shadow's answer said the same -> answers."""
        self.repeated: Counter[str] = Counter()
        """Texts answered without a run of their own: by an answer that was kept, by the run of an equal text that they shared."""
        self._by_size: dict[int, ComputeDurations] = {}

    @property
    def by_size(self) -> list[tuple[int, ComputeDurations]]:
        """Texts of a batch -> sums over the batches of that size, smallest first."""
        return sorted([*self._by_size.items()], key=lambda item: item[0])

    def ran(self, predictions: Sequence[Prediction]) -> None:
        """A batch was answered."""
        size = len(predictions)
        times = [prediction.timings for prediction in predictions]
        self.texts += size
        self.batches += 1
        self.last_ms = time.time_ns() // 1_000_000
        for spent in times:
            whole = spent.tokenize_us + spent.queue_us + spent.inference_us + spent.decode_us
            self.success.add(whole * 1000)
            self.queue.add(spent.queue_us * 1000)
            self.compute.add(spent.tokenize_us, spent.inference_us, spent.decode_us)
        whole_batch = self._by_size.setdefault(size, ComputeDurations())
        whole_batch.add(sum(spent.tokenize_us for spent in times), times[0].inference_us, times[0].decode_us)

    def failed(self, ns: int) -> None:
        """A text was refused, expired, or failed in the model, after so long."""
        self.failure.add(ns)

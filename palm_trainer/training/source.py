"""Training sources: a data set with its sampler."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from palm_trainer.data.dataset import EncodedDataset, TrainingBatch
from palm_trainer.data.sampler import LengthBucketedSampler
from palm_trainer.training.processes import SINGLE_PROCESS, Processes


@dataclass
class Source:
    """A data set with its sampler."""

    dataset: EncodedDataset
    sampler: LengthBucketedSampler
    tasks: Sequence[str] = field(init=False)

    def __post_init__(self) -> None:
        self.tasks = tuple(self.dataset.targets)

    @property
    def rows(self) -> int:
        """Rows of the data set: examples, or windows of their passages."""
        return len(self.dataset)

    def digest(self) -> str:
        """Return the SHA-256 of the data, to compare that of several processes."""
        return self.dataset.digest()

    def next(self) -> TrainingBatch:
        """Return the next batch."""
        return self.micro_batches(1, SINGLE_PROCESS)[0]

    def micro_batches(self, accumulate: int, processes: Processes) -> list[TrainingBatch]:
        """Return this process's share of the next batch, divided into `accumulate` micro-batches.

        All processes draw the same batch, so samplers are independent of the number of processes.
        There are fewer micro-batches if the batch has too few examples.
        """
        return self._cut(self.sampler.next(), accumulate, processes)

    def draw(self, accumulate: int, processes: Processes) -> tuple[TrainingBatch, list[TrainingBatch]]:
        """Return the next batch, and this process's share of it as `micro_batches` does."""
        indices = self.sampler.next()
        uncut_batches = self._cut(indices, 1, SINGLE_PROCESS)
        shares = uncut_batches if accumulate * processes.size == 1 else self._cut(indices, accumulate, processes)
        return uncut_batches[0], shares

    def _cut(self, indices: npt.NDArray[np.int64], accumulate: int, processes: Processes) -> list[TrainingBatch]:
        count = accumulate * processes.size
        micro_batches = []
        for first in range(processes.rank, count, processes.size):
            # A batch is sorted by length in part. With every count-th example, all processes have equal work.
            batch_indices = indices[first::count]
            if len(batch_indices):
                micro_batches.append(self.dataset.batch(batch_indices, self.sampler.epoch))
        return micro_batches

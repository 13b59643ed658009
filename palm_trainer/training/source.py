"""Training sources: a data set with its sampler."""

from collections.abc import Sequence
from dataclasses import dataclass, field

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

    def next(self) -> TrainingBatch:
        """Return the next batch."""
        return self.micro_batches(1, SINGLE_PROCESS)[0]

    def micro_batches(self, accumulate: int, processes: Processes) -> list[TrainingBatch]:
        """Return this process's share of the next batch, divided into `accumulate` micro-batches.

        All processes draw the same batch, so samplers are independent of the number of processes.
        There are fewer micro-batches if the batch has too few examples.
        """
        indices = self.sampler.next()
        count = accumulate * processes.size
        micro_batches = []
        for first in range(processes.rank, count, processes.size):
            # A batch is sorted by length in part. With every count-th example, all processes have equal work.
            batch_indices = indices[first::count]
            if len(batch_indices):
                micro_batches.append(self.dataset.batch(batch_indices, self.sampler.epoch))
        return micro_batches

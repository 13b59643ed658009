"""A data set with the order of its batches."""

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
        """The next batch."""
        return self.parts(1, SINGLE_PROCESS)[0]

    def parts(self, accumulate: int, processes: Processes) -> list[TrainingBatch]:
        """The next batch as this process trains it, cut into `accumulate` parts; fewer where the batch has not as many examples.

        All processes draw the same batch, and each takes what is its own: the samplers know nothing of how many there are.
        """
        indices, count = self.sampler.next(), accumulate * processes.size
        # every count-th: a batch of mixed lengths is sorted in part, and so costs each process alike
        shares = [indices[first::count] for first in range(processes.rank, count, processes.size)]
        return [self.dataset.batch(share, self.sampler.epoch) for share in shares if len(share)]

"""Which examples form a batch: length-bucketed, every example exactly once an epoch, and a pure function of (seed, epoch).

Nothing is kept but two counters, so resuming costs the same at any position.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


class LengthBucketedSampler:
    """Batches of examples of similar length, in random order.

    An epoch is shuffled, cut into pools of `pool_batches` batches, each pool sorted by length and cut into batches, and the batches of
    all pools shuffled. Larger pools pad less, smaller ones mix more.

    Args:
        lengths: tokens of each example.
        batch_size: examples in a batch; the last of an epoch may be smaller.
        seed: with the epoch's number, decides everything.
        pool_batches: batches in a pool.
        shuffle: False keeps the order of the data.
    """

    def __init__(
        self,
        lengths: Sequence[int] | npt.NDArray[np.int64],
        batch_size: int,
        seed: int,
        pool_batches: int = 64,
        *,
        shuffle: bool = True,
    ) -> None:
        self._lengths = np.asarray(lengths, dtype=np.int64)
        self._batch_size = batch_size
        self._seed = seed
        self._pool = batch_size * pool_batches
        self._shuffle = shuffle
        self.epoch = 0
        self.position = 0
        self._batches = self._plan(0)

    @property
    def batches_per_epoch(self) -> int:
        """Batches that hold every example once."""
        return len(self._batches)

    def next(self) -> npt.NDArray[np.int64]:
        """Indices of the next batch; epochs follow each other without end."""
        if self.position == len(self._batches):
            self.epoch += 1
            self.position = 0
            self._batches = self._plan(self.epoch)
        batch = self._batches[self.position]
        self.position += 1
        return batch

    def state_dict(self) -> dict[str, int]:
        """Where the sampler stands."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes to where another sampler over the same data stood."""
        self.epoch, self.position = state["epoch"], state["position"]
        self._batches = self._plan(self.epoch)

    def _plan(self, epoch: int) -> list[npt.NDArray[np.int64]]:
        if not self._shuffle:
            return [
                np.arange(i, min(i + self._batch_size, len(self._lengths)))
                for i in range(0, len(self._lengths), self._batch_size)
            ]
        generator = np.random.default_rng((self._seed, epoch))
        order = generator.permutation(len(self._lengths))
        batches = []
        for begin in range(0, len(order), self._pool):
            pool = order[begin : begin + self._pool]
            pool = pool[np.argsort(self._lengths[pool], kind="stable")]
            batches += [pool[i : i + self._batch_size] for i in range(0, len(pool), self._batch_size)]
        return [batches[i] for i in generator.permutation(len(batches))]


def padding_share(lengths: Sequence[int] | npt.NDArray[np.int64], batches: Sequence[npt.NDArray[np.int64]]) -> float:
    """Share of the positions of padded batches that hold no token, 0 to 1."""
    sizes = np.asarray(lengths, dtype=np.int64)
    padded = sum(len(batch) * int(sizes[batch].max()) for batch in batches)
    return 1.0 - sum(int(sizes[batch].sum()) for batch in batches) / padded

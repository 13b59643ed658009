"""Length-bucketed sampling.

Every example comes exactly once in an epoch, as a pure function of (seed, epoch).

The only state is two counters and the size of the pools, so resuming costs the same at any position.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_MAX_POOL_BATCHES = 64
_POOLS_OF_AN_EPOCH = 8


class LengthBucketedSampler:
    """Batches of examples of similar length, in random order.

    An epoch is shuffled and divided into pools of `pool_batches` batches. Each pool is sorted by
    length and divided into batches, and the batches of all pools are shuffled. Larger pools pad
    less, smaller pools mix more: in one pool over all examples, batches are nearly the same in
    every epoch.

    Args:
        lengths: tokens of each example, int64 [examples].
        batch_size: examples in a batch. The last batch of an epoch may be smaller.
        seed: decides the order, together with the number of the epoch.
        pool_batches: batches in a pool. None: 64, and at most an eighth of an epoch.
        shuffle: False keeps the order of the data.
    """

    def __init__(
        self,
        lengths: Sequence[int] | npt.NDArray[np.int64],
        batch_size: int,
        seed: int,
        pool_batches: int | None = None,
        *,
        shuffle: bool = True,
    ) -> None:
        self._lengths = np.asarray(lengths, dtype=np.int64)
        self._batch_size = batch_size
        self._seed = seed
        self._pool_batches = pool_batches or self._default_pool_batches()
        self._shuffle = shuffle
        self.epoch = 0
        self.position = 0
        self._batches = self._plan(0)

    @property
    def batches_per_epoch(self) -> int:
        """Batches in an epoch."""
        return len(self._batches)

    def next(self) -> npt.NDArray[np.int64]:
        """Return the indices of the next batch. Epochs follow each other without end."""
        if self.position == len(self._batches):
            self.epoch += 1
            self.position = 0
            self._batches = self._plan(self.epoch)
        batch = self._batches[self.position]
        self.position += 1
        return batch

    def state_dict(self) -> dict[str, int]:
        """Return the position of the sampler."""
        return {"epoch": self.epoch, "position": self.position, "pool_batches": self._pool_batches}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from the position of another sampler over the same data, with its pools."""
        # Runs from before small pools have no such key, and keep the pools that they began with.
        self._pool_batches = state.get("pool_batches", _MAX_POOL_BATCHES)
        self.epoch = state["epoch"]
        self.position = state["position"]
        self._batches = self._plan(self.epoch)

    def _default_pool_batches(self) -> int:
        batches = math.ceil(len(self._lengths) / self._batch_size)
        return min(_MAX_POOL_BATCHES, max(1, batches // _POOLS_OF_AN_EPOCH))

    def _plan(self, epoch: int) -> list[npt.NDArray[np.int64]]:
        """Return the indices of all batches of an epoch."""
        if not self._shuffle:
            return _split(np.arange(len(self._lengths)), self._batch_size)
        generator = np.random.default_rng((self._seed, epoch))
        order = generator.permutation(len(self._lengths))
        batches = []
        for pool in _split(order, self._batch_size * self._pool_batches):
            by_length = pool[np.argsort(self._lengths[pool], kind="stable")]
            batches += _split(by_length, self._batch_size)
        return [batches[index] for index in generator.permutation(len(batches))]


def _split(indices: npt.NDArray[np.int64], size: int) -> list[npt.NDArray[np.int64]]:
    """Divide indices into parts of `size`. The last part may be smaller."""
    return [indices[start : start + size] for start in range(0, len(indices), size)]


def padding_share(lengths: Sequence[int] | npt.NDArray[np.int64], batches: Sequence[npt.NDArray[np.int64]]) -> float:
    """Return the share of padding in the positions of padded batches, 0 to 1."""
    sizes = np.asarray(lengths, dtype=np.int64)
    tokens = 0
    positions = 0
    for batch in batches:
        batch_sizes = sizes[batch]
        tokens += int(batch_sizes.sum())
        positions += len(batch) * int(batch_sizes.max())
    return 1.0 - tokens / positions

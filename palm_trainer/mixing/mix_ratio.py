"""PALM's mix ratio with exact quotas.

Each data set gets `epochs x mix_ratio x (batches of the reference data set)` batches, as in PALM, where the count only fluctuated around
that; here the order is a random permutation of exactly these, so the length of a run is known before it starts.
"""

from collections.abc import Mapping

import numpy as np


class MixRatio:
    """Order of the data sets' batches over a whole run; a pure function of its arguments.

    Args:
        ratios: mix ratio of each data set.
        reference_batches: batches an epoch of the reference data set.
        epochs: of the reference data set.
        seed: of the permutation.
    """

    def __init__(self, ratios: Mapping[str, float], reference_batches: int, epochs: float, seed: int) -> None:
        self.names = tuple(ratios)
        self.quotas = {name: max(1, round(epochs * ratio * reference_batches)) for name, ratio in ratios.items()}
        order = np.repeat(np.arange(len(self.names)), [self.quotas[name] for name in self.names])
        self._order = np.random.default_rng(seed).permutation(order) if len(self.names) > 1 else order

    def __len__(self) -> int:
        """Steps of the whole run."""
        return len(self._order)

    def __getitem__(self, step: int) -> str:
        """Data set of a step, counted from 0."""
        return self.names[int(self._order[step])]

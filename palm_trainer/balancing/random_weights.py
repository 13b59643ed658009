"""Random loss weighting (Lin et al. 2022): noise in the weights helps out of poor minima, and is what other methods should beat."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from palm_trainer.balancing.base import Scale, total


class RandomWeights:
    """K x softmax of K standard normal numbers over the K tasks of a pass, drawn anew for each; 1 on average, as `fixed`.

    Args:
        weights: the configuration's `weight` of each task, by which its own is multiplied.
        seed: with the number of the draw, decides everything.
    """

    def __init__(self, weights: Mapping[str, float], seed: int) -> None:
        self._fixed = dict(weights)
        self._seed = seed
        self._draws = 0

    def draw(self, count: int) -> list[float]:
        """The next weights of so many tasks."""
        powers = np.exp(np.random.default_rng((self._seed, self._draws)).standard_normal(count))
        self._draws += 1
        weights: list[float] = (count * powers / powers.sum()).tolist()
        return weights

    def backward(self, losses: Mapping[str, Tensor], scale: Scale) -> None:
        """Adds the gradients of the weighted sum."""
        drawn = zip(losses.items(), self.draw(len(losses)), strict=True)
        scale(total([weight * self._fixed[task] * loss for (task, loss), weight in drawn])).backward()

    def observe(self, losses: Mapping[str, float]) -> None:
        """Losses change nothing."""

    def state_dict(self) -> dict[str, Any]:
        """How often was drawn."""
        return {"draws": self._draws}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues where `state_dict` was taken."""
        self._draws = state["draws"]

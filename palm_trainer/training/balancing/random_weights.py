"""Random loss weighting (Lin et al. 2022): noise in the weights helps out of poor minima, and is what other methods should beat."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from palm_trainer.training.balancing.base import Scale, total


class RandomWeights:
    """K x softmax of K standard normal numbers over the K tasks of a step, drawn anew for each step; 1 on average, as `fixed`.

    Args:
        weights: the configuration's `weight` of each task, by which its own is multiplied.
        seed: with the number of the step, decides everything.
    """

    def __init__(self, weights: Mapping[str, float], seed: int) -> None:
        self._fixed = dict(weights)
        self._seed = seed
        self._steps = 0

    def draw(self, count: int) -> list[float]:
        """The weights of so many tasks in this step; in each of its parts the same."""
        powers = np.exp(np.random.default_rng((self._seed, self._steps)).standard_normal(count))
        weights: list[float] = (count * powers / powers.sum()).tolist()
        return weights

    def backward(self, losses: Mapping[str, Tensor], scale: Scale, share: float = 1.0) -> None:
        """Adds the gradients of the weighted sum."""
        drawn = zip(losses.items(), self.draw(len(losses)), strict=True)
        scale(total([weight * self._fixed[task] * loss for (task, loss), weight in drawn])).backward()

    def observe(self, losses: Mapping[str, float]) -> None:
        """Another step, other weights."""
        self._steps += 1

    def state_dict(self) -> dict[str, Any]:
        """The number of the step."""
        return {"steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues where `state_dict` was taken."""
        self._steps = state["steps"]

"""Random loss weighting (Lin et al. 2022), a baseline for other methods."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from palm_trainer.training.balancing.base import Scale, weighted_sum


class RandomWeights:
    """Random weights: K x softmax of K standard normal numbers over the K tasks of a step.

    They are drawn for each step, and 1 on average, as `fixed`.

    Args:
        weights: configured `weight` of each task, a factor on its random weight.
        seed: decides the draws, together with the number of the step.
    """

    def __init__(self, weights: Mapping[str, float], seed: int) -> None:
        self._fixed_weights = dict(weights)
        self._seed = seed
        self._steps = 0

    def draw(self, count: int) -> list[float]:
        """Draw the weights of `count` tasks in this step.

        They are the same for each micro-batch of the step.
        """
        powers = np.exp(np.random.default_rng((self._seed, self._steps)).standard_normal(count))
        weights: list[float] = (count * powers / powers.sum()).tolist()
        return weights

    def backward(self, losses: Mapping[str, Tensor], scale: Scale, fraction: float = 1.0) -> None:
        """Add the gradients of the weighted sum.

        Args:
            losses: by task.
            scale: gradient scaler.
            fraction: not used.
        """
        weights = {}
        for task, random_weight in zip(losses, self.draw(len(losses)), strict=True):
            weights[task] = random_weight * self._fixed_weights[task]
        scale(weighted_sum(losses, weights)).backward()

    def observe(self, losses: Mapping[str, float]) -> None:
        """Count the step, which changes the weights."""
        self._steps += 1

    def state_dict(self) -> dict[str, Any]:
        """Return the number of steps."""
        return {"steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""
        self._steps = state["steps"]

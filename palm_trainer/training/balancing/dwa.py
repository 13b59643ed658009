"""Dynamic weight average (Liu et al. 2019, equation 7): a task whose loss falls more slowly weighs more."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from palm_trainer.training.balancing.base import Scale, total


class DynamicWeightAverage:
    """K x softmax(r / T) over all K tasks, r = a task's mean loss in the last epoch / in the one before; 1 until it has two.

    Args:
        weights: the configuration's `weight` of each task, by which its own is multiplied.
        epoch_steps: steps after which an epoch ends: those of one epoch of the reference data set, with what comes between.
        temperature: T; a large one makes the weights even.
    """

    def __init__(self, weights: Mapping[str, float], epoch_steps: int, temperature: float) -> None:
        self._fixed = dict(weights)
        self._epoch_steps = epoch_steps
        self._temperature = temperature
        self._steps = 0
        self._sums = {task: [0.0, 0.0] for task in weights}  # of this epoch: losses, their number
        self._means: dict[str, list[float]] = {task: [] for task in weights}  # of the last two epochs that had any

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each task in the next step."""
        ratios = {task: self._ratio(task) for task in self._fixed}
        highest = max(ratios.values())
        powers = {task: math.exp((ratio - highest) / self._temperature) for task, ratio in ratios.items()}
        share = len(powers) / sum(powers.values())
        return {task: self._fixed[task] * share * power for task, power in powers.items()}

    def _ratio(self, task: str) -> float:
        means = self._means[task]
        return means[1] / means[0] if len(means) == 2 and means[0] > 0 else 1.0

    def backward(self, losses: Mapping[str, Tensor], scale: Scale, share: float = 1.0) -> None:
        """Adds the gradients of the weighted sum."""
        weights = self.weights
        scale(total([weights[task] * loss for task, loss in losses.items()])).backward()

    def observe(self, losses: Mapping[str, float]) -> None:
        """Takes in the losses of a step that ended."""
        for task, loss in losses.items():
            so_far, count = self._sums[task]
            self._sums[task] = [so_far + loss, count + 1]
        self._steps += 1
        if self._steps % self._epoch_steps == 0:
            for task, (so_far, count) in self._sums.items():
                if count:
                    self._means[task] = [*self._means[task][-1:], so_far / count]
            self._sums = {task: [0.0, 0.0] for task in self._sums}

    def state_dict(self) -> dict[str, Any]:
        """Steps, sums of this epoch, means of the last two."""
        copies = {name: {task: list(kept) for task, kept in held.items()} for name, held in self._held().items()}
        return {"steps": self._steps, **copies}

    def _held(self) -> dict[str, dict[str, list[float]]]:
        return {"sums": self._sums, "means": self._means}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues where `state_dict` was taken."""
        self._steps = state["steps"]
        for name, held in self._held().items():
            held.update({task: list(kept) for task, kept in state[name].items()})

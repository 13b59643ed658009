"""Dynamic weight average (Liu et al. 2019, equation 7): tasks whose loss decreases more slowly get a larger weight."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from palm_trainer.training.balancing.base import Scale, weighted_sum


class DynamicWeightAverage:
    """Weights K x softmax(r / T) over all K tasks; r is a task's mean loss in the last epoch / in the one before.

    r is 1 until a task has two epochs.

    Args:
        weights: configured `weight` of each task, a factor on its dynamic weight.
        epoch_steps: steps after which an epoch ends: an epoch of the reference data set, with the
            steps in between.
        temperature: T. A large one makes the weights uniform.
    """

    def __init__(self, weights: Mapping[str, float], epoch_steps: int, temperature: float) -> None:
        self._fixed_weights = dict(weights)
        self._epoch_steps = epoch_steps
        self._temperature = temperature
        self._steps = 0
        self._sums = {task: [0.0, 0.0] for task in weights}  # of this epoch: sum of losses, their number
        self._means: dict[str, list[float]] = {task: [] for task in weights}  # of the last two epochs with losses

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each task in the next step."""
        ratios = {task: self._ratio(task) for task in self._fixed_weights}
        highest = max(ratios.values())
        powers = {}
        for task, ratio in ratios.items():
            powers[task] = math.exp((ratio - highest) / self._temperature)
        factor = len(powers) / sum(powers.values())
        weights = {}
        for task, power in powers.items():
            weights[task] = self._fixed_weights[task] * factor * power
        return weights

    def _ratio(self, task: str) -> float:
        means = self._means[task]
        return means[1] / means[0] if len(means) == 2 and means[0] > 0 else 1.0

    def backward(self, losses: Mapping[str, Tensor], scale: Scale, fraction: float = 1.0) -> None:
        """Add the gradients of the weighted sum.

        Args:
            losses: by task.
            scale: gradient scaler.
            fraction: not used.
        """
        scale(weighted_sum(losses, self.weights)).backward()

    def observe(self, losses: Mapping[str, float]) -> None:
        """Record the losses of a finished step."""
        for task, loss in losses.items():
            loss_sum, count = self._sums[task]
            self._sums[task] = [loss_sum + loss, count + 1]
        self._steps += 1
        if self._steps % self._epoch_steps == 0:
            for task, (loss_sum, count) in self._sums.items():
                if count:
                    self._means[task] = [*self._means[task][-1:], loss_sum / count]
            self._sums = {task: [0.0, 0.0] for task in self._sums}

    def state_dict(self) -> dict[str, Any]:
        """Return the number of steps, the sums of this epoch, and the means of the last two."""
        return {"steps": self._steps, "sums": _copy_lists(self._sums), "means": _copy_lists(self._means)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""
        self._steps = state["steps"]
        self._sums.update(_copy_lists(state["sums"]))
        self._means.update(_copy_lists(state["means"]))


def _copy_lists(lists: Mapping[str, list[float]]) -> dict[str, list[float]]:
    return {task: list(values) for task, values in lists.items()}

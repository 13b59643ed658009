"""Schedules as the Python API declares them, with PALM's names and arguments. Each is called with a step and gives the factor on the peak rate."""

import warnings
from typing import Protocol

from palm_trainer.api.lr_sched.base_schedualer import Schedualer
from palm_trainer.errors import ConfigError
from palm_trainer.training.optimization.schedules import Schedule, constant, linear, triangular_palm


class Planned(Protocol):
    """A schedule that can be held against the steps that a training has."""

    def fitted(self, total_steps: int) -> Schedule:
        """The schedule to train with, and a warning where it is not what was declared."""
        ...


class TriangularScheduler(Schedualer):
    """Rises over `warmup_steps`, then falls to 0 at `num_train_steps`; continuous, where PALM's curve jumped (`compat=True` keeps the jump).

    Raises:
        ConfigError: unless `num_train_steps > warmup_steps > 0`.
    """

    def __init__(self, warmup_steps: float, num_train_steps: float, *, compat: bool = False) -> None:
        if not num_train_steps > warmup_steps > 0:
            raise ConfigError(
                f"TriangularScheduler: warmup_steps is {warmup_steps} and num_train_steps {num_train_steps}, but 0 < warmup_steps < num_train_steps. "
                "Take a tenth of the steps for the warm-up."
            )
        self.warmup_steps = max(1, int(warmup_steps))
        self.num_train_steps = int(num_train_steps)
        self.compat = compat
        self._factor = self._curve(self.num_train_steps, self.warmup_steps)

    def __call__(self, step: int) -> float:
        """The factor of a step."""
        return self._factor(step)

    def fitted(self, total_steps: int) -> Schedule:
        """The curve itself where it fits `total_steps`; otherwise, with a warning, one of the same proportions over `total_steps`.

        It does not fit when the warm-up lasts as long as the training, or when the rate is 0 before its end. `compat=True` only warns.
        """
        if self.warmup_steps >= total_steps:
            fault = f"the warm-up of {self.warmup_steps} steps would never end"
        elif self.num_train_steps < total_steps:
            fault = f"the rate would be 0 for the last {total_steps - self.num_train_steps} steps"
        else:
            return self
        share = self.warmup_steps / self.num_train_steps
        warmup = max(1, round(share * total_steps))
        done = (
            "compat=True keeps it so."
            if self.compat
            else f"It is fitted: warm-up {warmup}, end at {total_steps}. "
            f"Write n_steps = num_examples // batch_size * num_epochs, summed over the tasks (here {total_steps})."
        )
        warnings.warn(
            f"TriangularScheduler({self.warmup_steps}, {self.num_train_steps}): {fault}; the training has {total_steps} steps. {done}",
            stacklevel=2,
        )
        return self if self.compat else self._curve(total_steps, warmup)

    def _curve(self, total_steps: int, warmup_steps: int) -> Schedule:
        return (triangular_palm if self.compat else linear)(total_steps, warmup_steps)


class WarmupScheduler(Schedualer):
    """Rises over `warmup_steps` and stays. Raises ConfigError unless `warmup_steps > 0`."""

    def __init__(self, warmup_steps: float) -> None:
        if warmup_steps <= 0:
            raise ConfigError(
                f"WarmupScheduler: warmup_steps is {warmup_steps}, but is above 0. Pass no schedule for a constant rate."
            )
        self.warmup_steps = max(1, int(warmup_steps))
        self._factor = constant(0, self.warmup_steps)

    def __call__(self, step: int) -> float:
        """The factor of a step."""
        return self._factor(step)

    def fitted(self, total_steps: int) -> Schedule:
        """The schedule itself; warns when its warm-up lasts as long as the training."""
        if self.warmup_steps >= total_steps:
            warnings.warn(
                f"WarmupScheduler({self.warmup_steps}): the training has {total_steps} steps, so the full rate is never reached. "
                f"Write WarmupScheduler({max(1, total_steps // 10)}).",
                stacklevel=2,
            )
        return self


# PALM's spelling
TriangularSchedualer = TriangularScheduler
WarmupSchedualer = WarmupScheduler

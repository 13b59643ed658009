"""Schedules with PALM's names and arguments: functions from a step to the factor on the peak rate."""

import warnings
from typing import Protocol

from palm_trainer.api.lr_sched.base_schedualer import Schedualer
from palm_trainer.errors import ConfigError
from palm_trainer.training.optimization.schedules import Schedule, constant, linear, triangular_palm


class Planned(Protocol):
    """Schedule that can be fitted to the number of training steps."""

    def fitted(self, total_steps: int) -> Schedule:
        """Return the schedule to train with. Warns where it differs from the declared one."""
        ...


class TriangularScheduler(Schedualer):
    """Rises over `warmup_steps`, then falls to 0 at `num_train_steps`.

    The curve is continuous. PALM's curve jumped, which `compat=True` keeps.

    Raises:
        ConfigError: unless `num_train_steps > warmup_steps > 0`.
    """

    def __init__(self, warmup_steps: float, num_train_steps: float, *, compat: bool = False) -> None:
        if not num_train_steps > warmup_steps > 0:
            raise ConfigError(
                f"TriangularScheduler: warmup_steps must be above 0 and below num_train_steps={num_train_steps}, got {warmup_steps}. "
                "Take a tenth of the steps for the warm-up."
            )
        self.warmup_steps = max(1, int(warmup_steps))
        self.num_train_steps = int(num_train_steps)
        self.compat = compat
        self._factor = self._curve(self.num_train_steps, self.warmup_steps)

    def __call__(self, step: int) -> float:
        """Return the factor of a step."""
        return self._factor(step)

    def fitted(self, total_steps: int) -> Schedule:
        """Return the curve where it fits `total_steps`, else warn and return one of the same proportions.

        It does not fit when the warm-up lasts as long as the training, or when the rate is 0 before the end.
        `compat=True` only warns.
        """
        if self.warmup_steps >= total_steps:
            fault = f"the warm-up of {self.warmup_steps} steps would never end"
        elif self.num_train_steps < total_steps:
            fault = f"the rate would be 0 for the last {total_steps - self.num_train_steps} steps"
        else:
            return self
        warmup_share = self.warmup_steps / self.num_train_steps
        warmup = max(1, round(warmup_share * total_steps))
        consequence = (
            "compat=True keeps it so."
            if self.compat
            else f"It is fitted: warm-up {warmup}, end at {total_steps}. "
            f"Write n_steps = num_examples // batch_size * num_epochs, summed over the tasks (here {total_steps})."
        )
        warnings.warn(
            f"TriangularScheduler({self.warmup_steps}, {self.num_train_steps}): {fault}, because the training has {total_steps} steps. {consequence}",
            stacklevel=2,
        )
        return self if self.compat else self._curve(total_steps, warmup)

    def _curve(self, total_steps: int, warmup_steps: int) -> Schedule:
        return (triangular_palm if self.compat else linear)(total_steps, warmup_steps)


class WarmupScheduler(Schedualer):
    """Rises over `warmup_steps` and stays constant. Raises ConfigError unless `warmup_steps > 0`."""

    def __init__(self, warmup_steps: float) -> None:
        if warmup_steps <= 0:
            raise ConfigError(
                f"WarmupScheduler: warmup_steps must be above 0, got {warmup_steps}. Pass no schedule for a constant rate."
            )
        self.warmup_steps = max(1, int(warmup_steps))
        self._factor = constant(0, self.warmup_steps)

    def __call__(self, step: int) -> float:
        """Return the factor of a step."""
        return self._factor(step)

    def fitted(self, total_steps: int) -> Schedule:
        """Return the schedule itself. Warns when its warm-up lasts as long as the training."""
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

"""Base of custom schedules. Any function of the step is valid, too."""

import warnings

from palm_trainer.training.optimization.schedules import Schedule


class Schedualer:
    """Factor on the peak rates by step, counted from 0.

    A custom schedule defines `__call__`. `fitted` may compare it with the number of training steps.
    """

    def __call__(self, step: int) -> float:
        """Return the factor of a step."""
        raise NotImplementedError(f"{type(self).__name__} lacks __call__(step), which returns the factor on the rate.")

    def fitted(self, total_steps: int) -> Schedule:
        """Return the schedule to train with. Warns where its rate is 0 in every step."""
        if not any(self(step) for step in range(total_steps)):
            warnings.warn(
                f"{type(self).__name__}: its factor is 0 in all {total_steps} steps of the training, which then learns nothing.",
                stacklevel=2,
            )
        return self

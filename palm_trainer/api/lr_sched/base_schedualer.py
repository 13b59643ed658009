"""The base of schedules that users write. Any function of the step serves as well."""

import warnings

from palm_trainer.training.optimization.schedules import Schedule


class Schedualer:
    """A factor on the peak rates by step, counted from 0. Write `__call__`; `fitted` may hold it against the steps that a training has."""

    def __call__(self, step: int) -> float:
        """The factor of a step."""
        raise NotImplementedError(f"{type(self).__name__} lacks __call__(step), which gives the factor on the rate.")

    def fitted(self, total_steps: int) -> Schedule:
        """The schedule to train with; warns where its rate is 0 throughout."""
        if not any(self(step) for step in range(total_steps)):
            warnings.warn(
                f"{type(self).__name__}: its factor is 0 in all {total_steps} steps of the training, which then learns nothing.",
                stacklevel=2,
            )
        return self

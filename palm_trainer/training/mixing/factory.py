"""Factory of the mixing policies."""

from collections.abc import Mapping

from palm_trainer.config.schema import MixingPolicy
from palm_trainer.errors import ConfigError
from palm_trainer.training.mixing.base import Mixing
from palm_trainer.training.mixing.loss_driven import LossDriven
from palm_trainer.training.mixing.planned import PlannedMixing
from palm_trainer.training.mixing.quotas import (
    annealed,
    mix_ratio,
    per_task_epochs,
    proportional,
    temperature,
    uniform,
)
from palm_trainer.training.mixing.round_robin import RoundRobin

_TEMPERATURE = 2.0
MAX_STEPS = 10_000_000
"""Steps of a training. More would take years, and their order more memory than there is."""


def make_mixing(
    policy: MixingPolicy,
    batches: Mapping[str, int],
    *,
    reference: str,
    epochs: float,
    seed: int,
    ratios: Mapping[str, float],
    own_epochs: Mapping[str, float],
    size_temperature: float | None = None,
) -> Mixing:
    """Create a mixing policy.

    Args:
        policy: its name.
        batches: batches in an epoch of each data set.
        reference: data set whose epochs are counted.
        epochs: of the reference data set.
        seed: of the order.
        ratios: mix ratio of each data set, for `mix_ratio`.
        own_epochs: epochs of each data set, for `per_task_epochs`.
        size_temperature: T of `temperature`. None: 2.

    Raises:
        ConfigError: there would be more than MAX_STEPS steps.
    """
    match policy:
        case "mix_ratio":
            phases = [mix_ratio(ratios, batches[reference], epochs)]
        case "per_task_epochs":
            phases = [per_task_epochs(batches, own_epochs)]
        case "proportional":
            phases = [proportional(batches, epochs)]
        case "temperature":
            phases = [temperature(batches, reference, epochs, size_temperature or _TEMPERATURE)]
        case "annealed":
            phases = annealed(batches, reference, epochs)
        case "uniform":
            phases = [uniform(batches, reference, epochs)]
        case "round_robin":
            rounds = round(epochs * batches[reference])
            _check_steps(rounds * len(batches))
            return RoundRobin(list(batches), rounds)
        case "loss_driven":
            steps = round(epochs * sum(batches.values()))
            _check_steps(steps)
            return LossDriven(list(batches), steps, seed)
    _check_steps(sum(sum(phase.values()) for phase in phases))
    return PlannedMixing(phases, seed)


def _check_steps(steps: int) -> None:
    """Check the number of steps. Raises ConfigError."""
    if steps > MAX_STEPS:
        raise ConfigError(
            f"train.epochs must give at most {MAX_STEPS:,} steps, got {steps:,}. "
            "Lower the epochs (or `mix_ratio` of a data set), or raise train.batch_size."
        )

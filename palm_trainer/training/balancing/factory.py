"""Factory of the balancing methods."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from palm_trainer.config.schema import BalancingMethod
from palm_trainer.errors import ConfigError
from palm_trainer.training.balancing.base import Balancing
from palm_trainer.training.balancing.dwa import DynamicWeightAverage
from palm_trainer.training.balancing.fixed import FixedWeights
from palm_trainer.training.balancing.gradient import GradientBalancing
from palm_trainer.training.balancing.gradnorm import GradNorm
from palm_trainer.training.balancing.random_weights import RandomWeights
from palm_trainer.training.balancing.uncertainty import Uncertainty

_GRADNORM_RATE = 0.025
_GRADNORM_ALPHA = 1.5
_DWA_TEMPERATURE = 2.0
_CAGRAD_C = 0.4


@dataclass(frozen=True)
class SharedParameters:
    """Trainable parameters: shared by the tasks, of the last shared layer, and of the head of each task."""

    encoder: Sequence[nn.Parameter]
    last_layer: Sequence[nn.Parameter]
    heads: Mapping[str, Sequence[nn.Parameter]]


def make_balancing(
    method: BalancingMethod,
    weights: Mapping[str, float],
    parameters: SharedParameters,
    *,
    device: torch.device,
    epoch_steps: int,
    seed: int,
    learning_rate: float | None = None,
    gradnorm_alpha: float | None = None,
    dwa_temperature: float | None = None,
    cagrad_c: float | None = None,
) -> Balancing:
    """Create a balancing method.

    Args:
        method: its name.
        weights: configured `weight` of each task.
        parameters: trainable parameters of the model.
        device: of the losses.
        epoch_steps: steps in an epoch of the reference data set, with the steps in between.
        seed: of `random`.
        learning_rate: of GradNorm's weights. None: 0.025, as in the paper.
        gradnorm_alpha: None: 1.5.
        dwa_temperature: None: 2.
        cagrad_c: None: 0.4.

    Raises:
        ConfigError: the parameters that the method balances are frozen, or torchjd is not
            installed.
    """
    match method:
        case "fixed":
            return FixedWeights(weights)
        case "uncertainty":
            return Uncertainty(list(weights), device)
        case "dwa":
            return DynamicWeightAverage(weights, epoch_steps, dwa_temperature or _DWA_TEMPERATURE)
        case "random":
            return RandomWeights(weights, seed)
        case "gradnorm":
            _check_trains(method, parameters.last_layer, "the last block of the encoder")
            alpha = _GRADNORM_ALPHA if gradnorm_alpha is None else gradnorm_alpha
            return GradNorm(list(weights), parameters.last_layer, alpha, learning_rate or _GRADNORM_RATE)
        case _:
            _check_trains(method, parameters.encoder, "the encoder")
            radius = _CAGRAD_C if cagrad_c is None else cagrad_c
            return GradientBalancing(method, weights, parameters.encoder, parameters.heads, radius)


def _check_trains(method: str, parameters: Sequence[nn.Parameter], component: str) -> None:
    if not parameters:
        raise ConfigError(
            f"train.balancing.method: '{method}' balances the gradients of {component}, which is frozen (train.freeze_layers). "
            "Freeze less, or choose fixed."
        )

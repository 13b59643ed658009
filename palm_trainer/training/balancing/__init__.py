"""Loss balancing: combining the losses of several tasks in one step."""

from palm_trainer.training.balancing.base import Balancing
from palm_trainer.training.balancing.dwa import DynamicWeightAverage
from palm_trainer.training.balancing.factory import SharedParameters, make_balancing
from palm_trainer.training.balancing.fixed import FixedWeights
from palm_trainer.training.balancing.gradient import GradientBalancing
from palm_trainer.training.balancing.gradnorm import GradNorm
from palm_trainer.training.balancing.random_weights import RandomWeights
from palm_trainer.training.balancing.uncertainty import Uncertainty

__all__ = [
    "Balancing",
    "DynamicWeightAverage",
    "FixedWeights",
    "GradNorm",
    "GradientBalancing",
    "RandomWeights",
    "SharedParameters",
    "Uncertainty",
    "make_balancing",
]

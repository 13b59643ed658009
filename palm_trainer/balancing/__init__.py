"""How the losses of several tasks become one step."""

from palm_trainer.balancing.base import Balancing
from palm_trainer.balancing.dwa import DynamicWeightAverage
from palm_trainer.balancing.factory import SharedParameters, make_balancing
from palm_trainer.balancing.fixed import FixedWeights
from palm_trainer.balancing.gradient import GradientBalancing
from palm_trainer.balancing.gradnorm import GradNorm
from palm_trainer.balancing.random_weights import RandomWeights
from palm_trainer.balancing.uncertainty import Uncertainty

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

"""Phases of PALM's components: training and prediction."""

from typing import Literal, get_args

from palm_trainer.errors import PalmError, WiringError

Phase = Literal["train", "predict"]


def check_phase(component: str, phase: str, *, error: type[PalmError] = WiringError) -> None:
    """Check the phase that a component was created for.

    Args:
        component: class name, for the message.
        phase: `train` or `predict`.
        error: class of the error to raise.

    Raises:
        PalmError: neither `train` nor `predict`.
    """
    if phase not in get_args(Phase):
        raise error(f"{component}: phase must be 'train' or 'predict', got '{phase}'.")

"""Learning-rate schedules.

A schedule is a pure function of the step, from 0, and returns the factor on the peak rate.
"""

import math
from collections.abc import Callable
from typing import TypeAlias

Schedule: TypeAlias = Callable[[int], float]


def linear(total_steps: int, warmup_steps: int) -> Schedule:
    """Rise to 1 in the warm-up, then fall to 0 (Howard and Ruder 2018, slanted triangular)."""

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        return max(0.0, (total_steps - step) / max(1, total_steps - warmup_steps))

    return factor


def constant(total_steps: int, warmup_steps: int) -> Schedule:
    """Rise to 1 in the warm-up and stay there."""
    return lambda step: min(1.0, (step + 1) / max(1, warmup_steps))


def cosine(total_steps: int, warmup_steps: int) -> Schedule:
    """Rise to 1 in the warm-up, then fall to 0 at `total_steps` along half a cosine (Loshchilov and Hutter 2017)."""

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        return 0.5 * (1.0 + math.cos(math.pi * progress))

    return factor


def noam(total_steps: int, warmup_steps: int) -> Schedule:
    """Rise to 1 in the warm-up, then fall as step ** -0.5 (Vaswani et al. 2017, eq. 3, with peak 1)."""
    warmup = max(1, warmup_steps)
    return lambda step: min((step + 1) / warmup, math.sqrt(warmup / max(warmup, step)))


def triangular_palm(total_steps: int, warmup_steps: int) -> Schedule:
    """Follow PALM's curve.

    Its fall starts at step 0, so the rate jumps from 1 to `1 - warmup_steps / total_steps` after
    the warm-up.
    """
    return lambda step: step / warmup_steps if step < warmup_steps else max(0.0, 1.0 - step / total_steps)


SCHEDULES: dict[str, Callable[[int, int], Schedule]] = {
    "linear": linear,
    "constant": constant,
    "cosine": cosine,
    "noam": noam,
}

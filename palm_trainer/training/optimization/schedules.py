"""Learning-rate schedules. A schedule is a pure function of the step, counted from 0: the factor on the peak rate."""

import math
from collections.abc import Callable
from typing import TypeAlias

Schedule: TypeAlias = Callable[[int], float]


def linear(total_steps: int, warmup_steps: int) -> Schedule:
    """Rises to 1 over the warm-up, then falls to 0 at `total_steps`; continuous (Howard and Ruder 2018, slanted triangular)."""

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        return max(0.0, (total_steps - step) / max(1, total_steps - warmup_steps))

    return factor


def constant(total_steps: int, warmup_steps: int) -> Schedule:
    """Rises to 1 over the warm-up and stays there."""
    return lambda step: min(1.0, (step + 1) / max(1, warmup_steps))


def cosine(total_steps: int, warmup_steps: int) -> Schedule:
    """Rises to 1 over the warm-up, then falls to 0 at `total_steps` along half a cosine (Loshchilov and Hutter 2017)."""

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        done = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        return 0.5 * (1.0 + math.cos(math.pi * done))

    return factor


def noam(total_steps: int, warmup_steps: int) -> Schedule:
    """Rises to 1 over the warm-up, then falls with the inverse square root of the step (Vaswani et al. 2017, eq. 3, scaled to a peak of 1)."""
    warmup = max(1, warmup_steps)
    return lambda step: min((step + 1) / warmup, math.sqrt(warmup / max(warmup, step)))


def triangular_palm(total_steps: int, warmup_steps: int) -> Schedule:
    """PALM's curve: the fall is counted from step 0, so the rate jumps from 1 to `1 - warmup_steps / total_steps` where the warm-up ends."""
    return lambda step: step / warmup_steps if step < warmup_steps else max(0.0, 1.0 - step / total_steps)


SCHEDULES: dict[str, Callable[[int, int], Schedule]] = {
    "linear": linear,
    "constant": constant,
    "cosine": cosine,
    "noam": noam,
}

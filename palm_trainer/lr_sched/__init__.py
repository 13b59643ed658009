"""Component 4: learning-rate schedules. A schedule is a pure function of the step: the factor on the peak rate."""

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


SCHEDULES: dict[str, Callable[[int, int], Schedule]] = {"linear": linear, "constant": constant}

"""How many batches each data set gets, by its size: batches an epoch, B. p is the share of a data set in the steps.

Every data set gets one batch at least. Where `epochs` are those of the reference data set, it gets exactly these, whatever its share, and
the others come in proportion; so policies differ in how often the others come, and in the length of the run.
"""

import math
from collections.abc import Mapping

_LAST_EXPONENT = 0.2


def mix_ratio(ratios: Mapping[str, float], reference_batches: int, epochs: float) -> dict[str, int]:
    """PALM's rule: `epochs x ratio x (batches of the reference data set)`; in PALM the counts fluctuated around that."""
    return {name: max(1, round(epochs * ratio * reference_batches)) for name, ratio in ratios.items()}


def per_task_epochs(batches: Mapping[str, int], epochs: Mapping[str, float]) -> dict[str, int]:
    """Each data set its own number of epochs."""
    return {name: max(1, round(epochs[name] * size)) for name, size in batches.items()}


def proportional(batches: Mapping[str, int], epochs: float) -> dict[str, int]:
    """p ~ B: each data set the same number of epochs."""
    return _by_exponent(batches, 1.0, epochs * sum(batches.values()))


def temperature(batches: Mapping[str, int], reference: str, epochs: float, value: float) -> dict[str, int]:
    """p ~ B ** (1 / T) (Raffel et al. 2020, temperature-scaled mixing): T = 1 is proportional, a large T nearly uniform."""
    share = _shares(batches, 1 / value)[reference]
    return _by_exponent(batches, 1 / value, epochs * batches[reference] / share)


def uniform(batches: Mapping[str, int], reference: str, epochs: float) -> dict[str, int]:
    """Each data set as many batches as the reference."""
    return _by_exponent(batches, 0.0, epochs * batches[reference] * len(batches))


def annealed(batches: Mapping[str, int], reference: str, epochs: float) -> list[dict[str, int]]:
    """p ~ B ** a with a = 1 - 0.8 (e - 1) / (E - 1) in epoch e of E (annealed sampling, Stickland and Murray 2019): from proportional towards uniform.

    An epoch here is one of E = ceil(epochs) equal parts of the run; that of the reference data set ends where its last batch is drawn.
    """
    phases = math.ceil(epochs)
    exponents = [1 - (1 - _LAST_EXPONENT) * e / max(1, phases - 1) for e in range(phases)]
    share = sum(_shares(batches, exponent)[reference] for exponent in exponents) / phases
    steps = epochs * batches[reference] / share / phases
    return [_by_exponent(batches, exponent, steps) for exponent in exponents]


def _shares(batches: Mapping[str, int], exponent: float) -> dict[str, float]:
    powers = {name: size**exponent for name, size in batches.items()}
    total = sum(powers.values())
    return {name: power / total for name, power in powers.items()}


def _by_exponent(batches: Mapping[str, int], exponent: float, steps: float) -> dict[str, int]:
    return {name: max(1, round(steps * share)) for name, share in _shares(batches, exponent).items()}

"""Quotas: the number of batches of each data set, computed from B, the batches of one of its epochs.

Every data set has at least one batch. If `epochs` are those of the reference data set, it has
exactly these, and the others follow in proportion. Policies then differ in the number of other
batches, and in the length of the run. p is the share of a data set in the steps.
"""

import math
from collections.abc import Mapping

_LAST_EXPONENT = 0.2


def mix_ratio(ratios: Mapping[str, float], reference_batches: int, epochs: float) -> dict[str, int]:
    """Compute PALM's quotas, `epochs x ratio x (batches of the reference data set)`.

    In PALM the counts fluctuated around that.

    Args:
        ratios: mix ratio of each data set.
        reference_batches: batches in an epoch of the reference data set.
        epochs: of the reference data set.
    """
    quotas = {}
    for name, ratio in ratios.items():
        quotas[name] = max(1, round(epochs * ratio * reference_batches))
    return quotas


def per_task_epochs(batches: Mapping[str, int], epochs: Mapping[str, float]) -> dict[str, int]:
    """Compute the quotas of separate numbers of epochs for each data set."""
    quotas = {}
    for name, size in batches.items():
        quotas[name] = max(1, round(epochs[name] * size))
    return quotas


def proportional(batches: Mapping[str, int], epochs: float) -> dict[str, int]:
    """Compute the quotas of p ~ B: the same number of epochs for each data set."""
    return _by_exponent(batches, 1.0, epochs * sum(batches.values()))


def temperature(batches: Mapping[str, int], reference: str, epochs: float, value: float) -> dict[str, int]:
    """Compute the quotas of p ~ B ** (1 / T) (Raffel et al. 2020, temperature-scaled mixing).

    T = 1 is proportional, a large T nearly uniform.

    Args:
        batches: batches in an epoch of each data set.
        reference: name of the reference data set.
        epochs: of the reference data set.
        value: T.
    """
    reference_share = _shares(batches, 1 / value)[reference]
    return _by_exponent(batches, 1 / value, epochs * batches[reference] / reference_share)


def uniform(batches: Mapping[str, int], reference: str, epochs: float) -> dict[str, int]:
    """Compute the quotas of as many batches of each data set as of the reference.

    Args:
        batches: batches in an epoch of each data set.
        reference: name of the reference data set.
        epochs: of the reference data set.
    """
    return _by_exponent(batches, 0.0, epochs * batches[reference] * len(batches))


def annealed(batches: Mapping[str, int], reference: str, epochs: float) -> list[dict[str, int]]:
    """Compute the quotas of annealed sampling (Stickland and Murray 2019): from proportional towards uniform.

    p ~ B ** a with a = 1 - 0.8 (e - 1) / (E - 1) in epoch e of E. An epoch here is one of E =
    ceil(epochs) equal parts of the run. An epoch of the reference data set ends with its last
    batch.

    Args:
        batches: batches in an epoch of each data set.
        reference: name of the reference data set.
        epochs: of the reference data set.

    Returns:
        Quotas of each epoch.
    """
    phases = math.ceil(epochs)
    exponents = []
    for phase in range(phases):
        exponents.append(1 - (1 - _LAST_EXPONENT) * phase / max(1, phases - 1))
    reference_share = sum(_shares(batches, exponent)[reference] for exponent in exponents) / phases
    steps = epochs * batches[reference] / reference_share / phases
    return [_by_exponent(batches, exponent, steps) for exponent in exponents]


def _shares(batches: Mapping[str, int], exponent: float) -> dict[str, float]:
    powers = {name: size**exponent for name, size in batches.items()}
    total = sum(powers.values())
    return {name: power / total for name, power in powers.items()}


def _by_exponent(batches: Mapping[str, int], exponent: float, steps: float) -> dict[str, int]:
    shares = _shares(batches, exponent)
    quotas = {}
    for name in batches:
        quotas[name] = max(1, round(steps * shares[name]))
    return quotas

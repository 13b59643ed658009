"""Figures of one replica: a sweep of `palm-serve bench`, read from its JSON file."""

import json
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from palm_serve.errors import ConfigError
from palm_serve.system.files import read_text

_LEAST_ANSWERED = 0.99
"""Share of the calls of a level that must be answered. The times of the others are in no percentile."""
_SWEEP = "Run: palm-serve bench HOST:PORT --sweep --deadline 30 --metrics http://HOST:9090/metrics --json bench.json"

_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Figures(BaseModel):
    """A part of the file. Further keys are for other readers."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Percentiles(_Figures):
    """Response times in milliseconds."""

    p50: _Positive
    p90: _Positive
    p99: _Positive
    p99_9: _Positive = Field(alias="p99.9")
    max: _Positive

    def points(self) -> tuple[tuple[float, float], ...]:
        """Return pairs of fraction and seconds, with the fractions rising."""
        milliseconds = ((0.5, self.p50), (0.9, self.p90), (0.99, self.p99), (0.999, self.p99_9), (1.0, self.max))
        return tuple((fraction, value / 1000) for fraction, value in milliseconds)


class MeasuredLevel(_Figures):
    """A closed loop of some callers."""

    callers: int = Field(ge=1)
    answered: _Positive
    """Calls a second."""
    codes: dict[str, int]
    answered_ms: Percentiles
    doubts: tuple[str, ...] = ()


class MeasuredUsage(_Figures):
    """What the server used, from its metrics."""

    cpu_ms_per_call: _Positive
    memory_mib: _Positive


class BenchFigures(_Figures):
    """The file."""

    levels: tuple[MeasuredLevel, ...] = Field(min_length=2)
    server: MeasuredUsage | None = None
    method: str = "parse"


def read_figures(path: Path) -> BenchFigures:
    """Read the figures of a sweep.

    Raises:
        ConfigError: if the file is no sweep, or a level does not say what a replica can do.
    """
    try:
        content = json.loads(read_text(path, ConfigError))
    except ValueError as error:
        raise ConfigError(f"{path} must be JSON of palm-serve bench, got a fault: {error}. {_SWEEP}") from None
    if not isinstance(content, dict) or "levels" not in content:
        raise ConfigError(f"{path} must hold a sweep, got one load. {_SWEEP}")
    try:
        figures = BenchFigures.model_validate(content)
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"]))
        raise ConfigError(
            f"{path}: {place} must be figures of palm-serve bench, got: {fault['msg']}. {_SWEEP}"
        ) from None
    _check(path, figures)
    return figures


def _check(path: Path, figures: BenchFigures) -> None:
    callers = [level.callers for level in figures.levels]
    if callers[0] != 1 or callers != sorted(set(callers)):
        raise ConfigError(f"{path}: callers of levels must rise from 1, got {callers}. {_SWEEP}")
    for level in figures.levels:
        fraction = level.codes.get("OK", 0) / max(1, sum(level.codes.values()))
        if fraction < _LEAST_ANSWERED:
            raise ConfigError(
                f"{path}: {level.callers} callers must be answered at least {100 * _LEAST_ANSWERED:.0f} % of their calls, "
                f"got {100 * fraction:.1f} %. Give --deadline a longer time: the sweep looks for the capacity."
            )

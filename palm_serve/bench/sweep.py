"""Closed loops with more and more callers: how many calls a second a server answers with a given number of calls in flight."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from palm_serve.bench.load import Load
from palm_serve.bench.report import LoadReport
from palm_serve.bench.run import run_load


@dataclass(frozen=True, slots=True)
class Level:
    """The load of a number of callers, each of which sends its next call after an answer."""

    callers: int
    report: LoadReport

    def as_dict(self) -> dict[str, Any]:
        """Return the callers and the report for JSON."""
        return {"callers": self.callers, **self.report.as_dict()}


def run_sweep(load: Load) -> Iterator[Level]:
    """Run a closed loop of 1, 2, 4, ... callers and of `load.concurrency`.

    Yields:
        Each level when it has run.

    Raises:
        PalmServeError: as `run_load` does.
    """
    for callers in sweep_callers(load.concurrency):
        yield Level(callers, run_load(replace(load, rate=None, concurrency=callers)))


def sweep_callers(largest: int) -> list[int]:
    """Return 1, 2, 4, ... and `largest`."""
    callers: list[int] = []
    count = 1
    while count < largest:
        callers.append(count)
        count *= 2
    return [*callers, largest]

"""Timing of the graphs of a bundle on this machine, with a cache of the measured times."""

import logging
import math
import os
import time
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path

import onnxruntime as ort

from palm_serve.engine.cores import usable_cores
from palm_serve.engine.cpu_features import processor
from palm_serve.engine.machine_cache import MachineCache
from palm_serve.types import Engine, PaddedBatch

log = logging.getLogger(__name__)

SHAPES = ((1, 16), (32, 16))
"""Shapes `[rows, tokens]` that are timed: one utterance, and a full batch."""

_FEWEST_ROUNDS = 3

Times = tuple[float, ...]
"""Shortest time of one run in each shape, in seconds."""


def default_cache() -> Path | None:
    """Return the cache directory of the XDG base directory specification. None: the user has no home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "palm"
    except RuntimeError:
        return None


def measure(engines: Sequence[Engine], batches: Sequence[PaddedBatch], budget_s: float) -> list[Times]:
    """Measure the shortest times of each engine.

    Rounds are interleaved, so that a busy moment of the machine slows down all engines. The first run of a shape is not
    counted, because it compiles.

    Args:
        engines: engines to measure.
        batches: one batch for each shape.
        budget_s: seconds for all rounds.
    """
    shortest = [[math.inf] * len(batches) for _ in engines]
    for column, batch in enumerate(batches):
        for engine in engines:
            engine.run(batch)
        stop = time.perf_counter() + budget_s / len(batches)
        rounds = 0
        while rounds < _FEWEST_ROUNDS or time.perf_counter() < stop:
            for row, engine in enumerate(engines):
                start = time.perf_counter()
                engine.run(batch)
                shortest[row][column] = min(shortest[row][column], time.perf_counter() - start)
            rounds += 1
    return [tuple(times) for times in shortest]


def score(times: Times) -> float:
    """Return the geometric mean, in which a ratio counts the same in every shape."""
    return math.exp(sum(map(math.log, times)) / len(times))


MeasuredTimes = MutableMapping[str, Mapping[str, Times]]
"""Times that were measured in this process, by a digest of everything they depend on and by candidate."""


class TimingCache:
    """Keeps measured times, in a file for each kind of graph and machine.

    A directory that cannot be read or written only means that the next start measures again.

    Args:
        directory: directory of the files, which is made if needed. None: no file is written.
        facts: facts that the times depend on, besides the processor, its usable cores and ONNX Runtime.
        measured: times of this process. They are used before the file, and where no file can be written.
    """

    def __init__(self, directory: Path | None, facts: Mapping[str, str], measured: MeasuredTimes | None = None) -> None:
        self._file = MachineCache(directory, "timings", {**machine_facts(), **facts})
        self._measured: MeasuredTimes = {} if measured is None else measured

    def load(self) -> Mapping[str, Times]:
        """Return the times by candidate. Empty: nothing usable is kept."""
        return self._measured.get(self._file.digest) or self._read()

    def _read(self) -> dict[str, Times]:
        times_by_candidate = {}
        try:
            for name, times in (self._file.read() or {}).items():
                times_by_candidate[name] = tuple(map(float, times))
        except (ValueError, TypeError, AttributeError) as error:
            log.info("%s cannot be used, the engines are measured again: %s", self._file.file, error)
            return {}
        return times_by_candidate

    def store(self, times: Mapping[str, Times]) -> None:
        """Keep the times. Without a writable directory, they are kept for this process only."""
        self._measured[self._file.digest] = times
        fault = self._file.write(dict(times))
        if fault:
            log.info("the measured times cannot be written: %s", fault)


def machine_facts() -> dict[str, str]:
    """Return the facts about this machine that times and rounding depend on."""
    return {"processor": processor(), "cores": str(usable_cores()), "onnxruntime": ort.__version__}

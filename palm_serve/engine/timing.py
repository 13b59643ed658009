"""How long the graphs of a bundle take on this machine, and the memory of it."""

import hashlib
import json
import logging
import math
import os
import tempfile
import time
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path

import onnxruntime as ort

from palm_serve.engine.cores import usable_cores
from palm_serve.engine.cpu_features import processor
from palm_serve.types import Engine, PaddedBatch

log = logging.getLogger(__name__)

SHAPES = ((1, 16), (32, 16))
"""Rows and tokens that are timed: one utterance, and a full batch."""

_FEWEST_ROUNDS = 3

Times = tuple[float, ...]
"""Least time of one run in each shape, seconds."""


def default_cache() -> Path | None:
    """Where what was measured is kept, by the XDG base directory specification; None for a user without a home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "palm"
    except RuntimeError:
        return None


def measure(engines: Sequence[Engine], batches: Sequence[PaddedBatch], budget_s: float) -> list[Times]:
    """Least times of each engine, in interleaved rounds so that a busy moment of the machine falls on all of them.

    The first run of a shape, which compiles, is not counted.
    """
    least = [[math.inf] * len(batches) for _ in engines]
    for column, batch in enumerate(batches):
        for engine in engines:
            engine.run(batch)
        stop = time.perf_counter() + budget_s / len(batches)
        rounds = 0
        while rounds < _FEWEST_ROUNDS or time.perf_counter() < stop:
            for row, engine in enumerate(engines):
                start = time.perf_counter()
                engine.run(batch)
                least[row][column] = min(least[row][column], time.perf_counter() - start)
            rounds += 1
    return [tuple(times) for times in least]


def score(times: Times) -> float:
    """Geometric mean: a ratio counts the same in every shape."""
    return math.exp(sum(map(math.log, times)) / len(times))


Kept = MutableMapping[str, Mapping[str, Times]]
"""What was measured in this process, by what it depends on and the name of the candidate."""


class TimingCache:
    """Measured times, in a file for each kind of graph and machine.

    A directory that cannot be read or written only means that the next start measures again.

    Args:
        directory: made where it does not exist; None: no file is kept.
        facts: what the times depend on, beside the processor, its usable cores and ONNX Runtime.
        kept: goes before the file, and is there where none can be written.
    """

    def __init__(self, directory: Path | None, facts: Mapping[str, str], kept: Kept | None = None) -> None:
        machine = {"processor": processor(), "cores": str(usable_cores()), "onnxruntime": ort.__version__}
        self._key = {**machine, **facts}
        self._digest = hashlib.sha256(json.dumps(self._key, sort_keys=True).encode()).hexdigest()
        self._file = None if directory is None else directory / f"timings-{self._digest[:32]}.json"
        self._kept: Kept = {} if kept is None else kept

    def load(self) -> Mapping[str, Times]:
        """Times by the name of the candidate; empty where nothing usable is kept."""
        return self._kept.get(self._digest) or self._read()

    def _read(self) -> dict[str, Times]:
        if self._file is None:
            return {}
        try:
            content = json.loads(self._file.read_text(encoding="utf-8"))
            if content["key"] != self._key:
                return {}
            return {str(name): tuple(map(float, times)) for name, times in content["times"].items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.info("%s cannot be used, the engines are measured again: %s", self._file, error)
            return {}

    def store(self, times: Mapping[str, Times]) -> None:
        """Keeps the times; in no file where the directory refuses."""
        self._kept[self._digest] = times
        if self._file is None:
            return
        text = json.dumps({"key": self._key, "times": dict(times)}, indent=1)
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=self._file.parent, delete=False) as file:
                file.write(text)
            Path(file.name).replace(self._file)
        except OSError as error:
            log.info("what was measured is not kept: %s", error)

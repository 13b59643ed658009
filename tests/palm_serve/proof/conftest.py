"""Fake sessions at the engine's seam: what a provider may do that no machine here does."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from palm_serve.bundle.loader import Bundle, load_bundle
from palm_serve.engine import providers, timing
from palm_serve.engine.session import open_engine
from palm_serve.errors import EngineError, ProviderMissing
from palm_serve.proof import selection
from palm_serve.types import EngineInfo, FloatArray, InputTexts, PaddedBatch

Lie = Callable[[PaddedBatch, dict[str, FloatArray]], None]


class FakeEngine:
    """Session on the CPU that reports another provider.

    Args:
        engine: the session.
        info: provider, precision and variant to report.
        lie: changes the outputs of a batch.
        seconds: time that each run takes longer.
        runs: runs after which it fails. None: it never fails.
    """

    def __init__(
        self, engine: Any, info: EngineInfo, lie: Lie | None = None, seconds: float = 0.0, runs: int | None = None
    ) -> None:
        self.info = info
        self.inputs = engine.inputs
        self.outputs = engine.outputs
        self.metadata = engine.metadata
        self.remaining = runs
        self._engine = engine
        self._lie = lie
        self._seconds = seconds

    def run(self, batch: PaddedBatch, outputs: Sequence[str] | None = None) -> dict[str, FloatArray]:
        if self.remaining is not None:
            self.remaining -= 1
            if self.remaining < 0:
                raise RuntimeError("device lost")
        time.sleep(self._seconds)
        values = {name: value.copy() for name, value in self._engine.run(batch, outputs).items()}
        if self._lie is not None:
            self._lie(batch, values)
        return values

    def shape(self, rows: int, length: int) -> tuple[int, int]:
        return rows, length

    def interrupt(self) -> None:
        self._engine.interrupt()


class Machine:
    """Machine with some providers, whose sessions are fakes. `opened` are those that were opened."""

    def __init__(self) -> None:
        self.providers: tuple[str, ...] = ("CPU",)
        self.opened: list[tuple[str, str, str]] = []
        self.failing: dict[str, EngineError] = {}
        self.fakes: dict[tuple[str, str], dict[str, Any]] = {}
        self.seconds: dict[str, float] = {}

    def fake(self, provider: str, precision: str = "fp32", **options: Any) -> None:
        """Add a provider with the options of FakeEngine."""
        if provider not in self.providers:
            self.providers = (provider, *self.providers)
        self.fakes[provider, precision] = options

    def fail(self, provider: str, message: str) -> None:
        """Add a provider that looks usable and is not."""
        self.providers = (provider, *self.providers)
        self.failing[provider] = ProviderMissing(message)

    def open(
        self,
        graph: Any,
        provider: str,
        precision: str,
        threads: int | None = None,
        variant: str = "plain",
        cache: Path | None = None,
    ) -> Any:
        self.opened.append((provider, precision, variant))
        if provider in self.failing:
            raise self.failing[provider]
        engine = open_engine(graph, "CPU", "fp32", 1, variant)
        return FakeEngine(engine, EngineInfo(provider, precision, variant), **self.fakes.get((provider, precision), {}))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    """Return a machine with a CPU and an empty cache. `seconds` replaces the clock by provider."""
    machine = Machine()
    selection._warn_once.cache_clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(providers, "available_providers", lambda: machine.providers)
    monkeypatch.setattr(providers, "open_engine", machine.open)
    measure = timing.measure

    def measure_fakes(engines: Sequence[Any], batches: Sequence[PaddedBatch], budget_s: float) -> list[timing.Times]:
        if not machine.seconds:
            return measure(engines, batches, budget_s)
        return [(machine.seconds[engine.info.provider],) * len(batches) for engine in engines]

    monkeypatch.setattr(timing, "measure", measure_fakes)
    return machine


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Return the directory of the user's cache."""
    return tmp_path / "cache" / "palm"


@pytest.fixture
def proven(proven_bundle: Path) -> Bundle:
    """Return a loaded bundle with a proof of 1,296 answers."""
    return load_bundle(proven_bundle)


@dataclass(frozen=True)
class DevText:
    """A dev example."""

    text: str
    pair: str | None = None

    @property
    def inputs(self) -> InputTexts:
        return InputTexts(self.text, self.pair)


@pytest.fixture
def make_texts() -> Callable[[int], list[DevText]]:
    """Return a function that makes different texts."""
    return lambda count: [DevText(f"play song {number} in boston") for number in range(count)]


@pytest.fixture
def lie_once(proven: Bundle) -> Lie:
    """Return a lie on the intent of one text: on one of the 1,296 answers, so on less than 0.1 %."""
    assert proven.proof is not None
    ids = proven.proof.rows[0][0].ids

    def lie(batch: PaddedBatch, outputs: dict[str, FloatArray]) -> None:
        for row, length in enumerate(batch.lengths):
            tokens = tuple(batch.arrays["input_ids"][row, :length].tolist())
            if tokens == ids and "intent.logits" in outputs:
                outputs["intent.logits"][row] = np.roll(outputs["intent.logits"][row], 1)

    return lie


@pytest.fixture
def tell_nan() -> Lie:
    """Return a lie that makes the last tag of the last token NaN."""

    def lie(batch: PaddedBatch, outputs: dict[str, FloatArray]) -> None:
        if "slots.logits" in outputs:
            outputs["slots.logits"][-1, int(batch.lengths[-1]) - 1, -1] = np.nan

    return lie

"""What an export showed: every combination that was tried, its gate and its speed, and which graphs are worth a place in the bundle."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from palm_serve.bundle.loader import Bundle
from palm_serve.engine import timing
from palm_serve.engine.providers import PLAIN, PRECISIONS, Candidate, sample_batch
from palm_serve.types import Engine
from palm_trainer.export.gate import Result

WORTH_WRITING = 0.95
"""A variant must need less than this share of the time of all that are at least as exact on its provider."""
_BUDGET_S = 2.0


@dataclass(frozen=True)
class Row:
    """One combination: what the gate and the clock said. `reason` is why it is not in the bundle; times are NaN where it was not timed."""

    candidate: Candidate
    size: int
    result: Result
    times: timing.Times
    reason: str

    @property
    def latency_ms(self) -> float:
        """Of one utterance of 16 tokens."""
        return 1e3 * self.times[0]

    @property
    def texts_per_second(self) -> float:
        """In batches of 32 utterances of 16 tokens."""
        return timing.SHAPES[1][0] / self.times[1]

    def as_json(self) -> dict[str, Any]:
        """For `--json`; figures that are no number are None."""
        figures = {**self.result.gate.figures, "latency_ms": self.latency_ms, "texts_per_second": self.texts_per_second}
        return {
            "variant": self.candidate.variant,
            "provider": self.candidate.provider,
            "precision": self.candidate.precision,
            "instructions": self.result.gate.instructions,
            "size": self.size,
            "passed": self.result.gate.passed,
            "written": not self.reason,
            "reason": self.reason or self.result.reason,
            "figures": {name: value if math.isfinite(value) else None for name, value in figures.items()},
        }


@dataclass(frozen=True)
class Report:
    """All that was tried. `notes` tell what a graph is made of, and what could not be made or measured."""

    rows: tuple[Row, ...]
    notes: tuple[str, ...]


def timed(bundle: Bundle, engines: Mapping[Candidate, Engine]) -> dict[Candidate, timing.Times]:
    """Least times in `timing.SHAPES`, in interleaved rounds."""
    batches = [sample_batch(bundle, rows, length) for rows, length in timing.SHAPES]
    found = timing.measure(list(engines.values()), batches, _BUDGET_S)
    return dict(zip(engines, found, strict=True))


def unwritten(
    results: Mapping[Candidate, Result], times: Mapping[Candidate, timing.Times], asked: Collection[str]
) -> dict[str, str]:
    """Variants that do not get into the bundle, with the reason: they failed everywhere, or are nowhere faster than what is as exact.

    Args:
        results: all gates.
        times: of what passed.
        asked: precisions that the user named: their graphs need only pass.
    """
    found = {}
    for variant in dict.fromkeys(c.variant for c in results if c.variant != PLAIN.variant):
        mine = [c for c in results if c.variant == variant]
        passed = [c for c in mine if results[c].gate.passed]
        if not passed:
            found[variant] = "; ".join(f"{c.provider}: {results[c].reason}" for c in mine)
        elif not any(c.precision in asked or _pays(c, times) for c in passed):
            found[variant] = "not faster here than what is as exact"
    return found


def _pays(candidate: Candidate, times: Mapping[Candidate, timing.Times]) -> bool:
    rivals = [
        timing.score(found)
        for other, found in times.items()
        if other.provider == candidate.provider
        and other.variant != candidate.variant
        and PRECISIONS.index(other.precision) <= PRECISIONS.index(candidate.precision)
    ]
    return all(timing.score(times[candidate]) < WORTH_WRITING * rival for rival in rivals)


def rows_of(
    sizes: Mapping[str, int],
    results: Mapping[Candidate, Result],
    times: Mapping[Candidate, timing.Times],
    dropped: Mapping[str, str],
) -> tuple[Row, ...]:
    """One row a combination, in the order measured."""
    unknown: Sequence[float] = [math.nan] * len(timing.SHAPES)
    return tuple(
        Row(c, sizes[c.variant], result, tuple(times.get(c, unknown)), dropped.get(c.variant, ""))
        for c, result in results.items()
    )

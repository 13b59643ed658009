"""Report of an export: all candidates with their gates and speed, and the variants that are not written."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from palm_serve.bundle.loader import Bundle
from palm_serve.engine import timing
from palm_serve.engine.candidate import PLAIN, PRECISIONS, Candidate
from palm_serve.engine.candidate_times import sample_batch
from palm_serve.types import Engine, PaddedBatch
from palm_trainer.export.gate import GateResult

REQUIRED_TIME_RATIO = 0.95
"""A variant is written if it takes less than this fraction of the time of all that are at least as exact."""
NOT_FASTER = "not faster here than a variant that is as exact"
_TIMING_BUDGET_S = 2.0


@dataclass(frozen=True)
class CandidateReport:
    """Gate and speed of one candidate. `reason` says why its variant is not in the bundle.

    `times` are NaN if it was not timed.
    """

    candidate: Candidate
    size: int
    result: GateResult
    times: timing.Times
    reason: str

    @property
    def latency_ms(self) -> float:
        """Return the time of one text of 16 tokens."""
        return 1e3 * self.times[0]

    @property
    def texts_per_second(self) -> float:
        """Return the throughput in batches of 32 texts of 16 tokens."""
        return timing.SHAPES[1][0] / self.times[1]

    def as_json(self) -> dict[str, Any]:
        """Return the row for `--json`. Figures that are not finite are None."""
        figures: dict[str, float | None] = {}
        values = {**self.result.gate.figures, "latency_ms": self.latency_ms, "texts_per_second": self.texts_per_second}
        for name, value in values.items():
            figures[name] = value if math.isfinite(value) else None
        return {
            "variant": self.candidate.variant,
            "provider": self.candidate.provider,
            "precision": self.candidate.precision,
            "instructions": self.result.gate.instructions,
            "size": self.size,
            "compared": self.result.is_compared,
            "passed": self.result.gate.passed,
            "written": not self.reason,
            "reason": self.reason or self.result.reason,
            "figures": figures,
        }


@dataclass(frozen=True)
class ExportReport:
    """All candidates of an export. `notes` describe the graphs, and what could not be created or measured.

    `metric` is the name of the metric that the gates compare, `seconds` the time that each step of the export took.
    """

    rows: tuple[CandidateReport, ...]
    notes: tuple[str, ...]
    metric: str = ""
    metric_rows: int = 0
    """Number of dev examples that the metric is a share of. 0: it is no share of examples."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    size: int = 0
    """Bytes of the bundle."""


def share_interval(ratio: float, count: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of a share of independent examples (Wilson 1927).

    Args:
        ratio: the share, from 0 to 1.
        count: number of examples, at least 1.
    """
    z = 1.959964
    middle = (ratio + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * math.sqrt(ratio * (1 - ratio) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
    return max(0.0, middle - half), min(1.0, middle + half)


def time_engines(bundle: Bundle, engines: Mapping[Candidate, Engine]) -> dict[Candidate, timing.Times]:
    """Measure the least time in each of `timing.SHAPES`, in interleaved rounds.

    Engines that cannot run a shape have no times. The comparison with the trained model tells why.
    """
    batches = [sample_batch(bundle, rows, length) for rows, length in timing.SHAPES]
    usable = {candidate: engine for candidate, engine in engines.items() if _runs(engine, batches)}
    times = timing.measure(list(usable.values()), batches, _TIMING_BUDGET_S)
    return dict(zip(usable, times, strict=True))


def _runs(engine: Engine, batches: Sequence[PaddedBatch]) -> bool:
    """Return False if the engine raises on a batch."""
    try:
        for batch in batches:
            engine.run(batch)
    except Exception:  # the exceptions of the runtimes share no base class
        return False
    return True


def find_unwritten_variants(
    results: Mapping[Candidate, GateResult], times: Mapping[Candidate, timing.Times], requested: Collection[str]
) -> dict[str, str]:
    """Find the variants that are not written, with the reason.

    These have failed on all providers, or are on none faster than the candidates that are as exact.

    Args:
        results: all gates.
        times: times of the candidates that passed.
        requested: precisions that the user asked for. Their graphs need only pass.
    """
    reasons = {}
    variants = dict.fromkeys(candidate.variant for candidate in results)
    for variant in variants:
        if variant == PLAIN.variant:
            continue
        candidates = [candidate for candidate in results if candidate.variant == variant]
        passed = [candidate for candidate in candidates if results[candidate].gate.passed]
        if not all(results[candidate].is_compared for candidate in candidates):
            reasons[variant] = NOT_FASTER
        elif not passed:
            failures = []
            for candidate in candidates:
                failures.append(f"{candidate.provider}: {results[candidate].reason}")
            reasons[variant] = "; ".join(failures)
        elif not any(candidate.precision in requested or _is_faster(candidate, times) for candidate in passed):
            reasons[variant] = NOT_FASTER
    return reasons


def find_slow_variants(
    results: Mapping[Candidate, GateResult], times: Mapping[Candidate, timing.Times], requested: Collection[str]
) -> set[str]:
    """Find the variants that would not be written if they passed, so that they need not be compared.

    Args:
        results: gates of the plain graph.
        times: times of the candidates that can be timed. Variants of which none can are compared.
        requested: precisions that the user asked for.
    """
    rivals = {}
    for candidate, result in results.items():
        if result.gate.passed and candidate in times:
            rivals[candidate] = times[candidate]
    promising = set()
    for candidate, candidate_times in times.items():
        if candidate.precision in requested or _is_faster(candidate, {**rivals, candidate: candidate_times}):
            promising.add(candidate.variant)
    return {candidate.variant for candidate in times} - promising - {PLAIN.variant}


def make_rows(
    sizes: Mapping[str, int],
    results: Mapping[Candidate, GateResult],
    times: Mapping[Candidate, timing.Times],
    unwritten: Mapping[str, str],
) -> tuple[CandidateReport, ...]:
    """Make a row for each candidate, in the order of their measurement.

    Args:
        sizes: size of each variant in bytes.
        results: gates of the candidates.
        times: times of those that passed.
        unwritten: variants that are not written, with the reason.
    """
    unknown_times: timing.Times = (math.nan,) * len(timing.SHAPES)
    rows = []
    for candidate, result in results.items():
        variant = candidate.variant
        candidate_times = times.get(candidate, unknown_times)
        rows.append(CandidateReport(candidate, sizes[variant], result, candidate_times, unwritten.get(variant, "")))
    return tuple(rows)


def _is_faster(candidate: Candidate, times: Mapping[Candidate, timing.Times]) -> bool:
    """Return True if it is faster than all other variants on its provider that are at least as exact."""
    score = timing.score(times[candidate])
    for rival, rival_times in times.items():
        if rival.provider != candidate.provider or rival.variant == candidate.variant:
            continue
        if PRECISIONS.index(rival.precision) > PRECISIONS.index(candidate.precision):
            continue
        if not score < REQUIRED_TIME_RATIO * timing.score(rival_times):
            return False
    return True

"""Selection of the engine that serves a bundle: proof of what this machine can run, then the fastest that passed."""

import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from palm_serve.bundle.loader import Bundle
from palm_serve.engine import providers, timing
from palm_serve.engine.candidate import PLAIN, Candidate
from palm_serve.engine.candidate_times import keep_times, known_times, measure_engines, rank_times
from palm_serve.engine.options import TENSORRT
from palm_serve.engine.provider_fallback import FallbackEngine
from palm_serve.engine.providers import AUTO
from palm_serve.engine.session import OpenEngine
from palm_serve.engine.timing import MeasuredTimes, Times
from palm_serve.errors import EngineError, ProviderMissing, one_line
from palm_serve.proof.candidates import failed_gate, machine_candidates
from palm_serve.proof.outcomes import KnownOutcomes, OutcomeCache, ProofOutcome, judge_result
from palm_serve.proof.proving import Prover
from palm_serve.system.background import unhindered_clock
from palm_serve.types import EngineSelection, EngineTrial, ServedEngine

log = logging.getLogger(__name__)

PROOF_BUDGET_S = 20.0
"""Seconds after which a start proves no further combination, unless its time limit says otherwise."""
_FAILURES = {
    "failed": "failed the proof",
    "unusable": "is unusable",
    "not_tried": "is not tried",
    "passed": "passed the proof, but does not run",
}
"""What went wrong, by the outcome of a combination that is not used."""


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """Options of an engine.

    Args:
        provider: execution provider, `auto`, or several with commas between them: the first one that can be had.
        precision: precision of the computation, or `auto`.
        threads: threads of one run. None: one for each usable physical core.
        cache: directory for outcomes, times and compiled graphs. None: the user's cache directory.
        budget_s: seconds after which no further combination is proven.
        variant: graph of the bundle, or `auto`.
    """

    provider: str = AUTO
    precision: str = AUTO
    threads: int | None = None
    cache: Path | None = None
    budget_s: float = PROOF_BUDGET_S
    variant: str = AUTO

    @property
    def is_auto(self) -> bool:
        """Return True if nothing is asked for."""
        return self.provider == AUTO and self.precision == AUTO

    def allows(self, candidate: Candidate) -> bool:
        """Return True if a combination is among those that are asked for. `provider` is one name."""
        return (
            self.provider in (AUTO, candidate.provider)
            and self.variant in (AUTO, candidate.variant)
            and self.precision in (AUTO, candidate.precision)
        )

    def __str__(self) -> str:
        provider = "" if self.provider == AUTO else f"provider '{self.provider}'"
        precision = "" if self.precision == AUTO else f"precision '{self.precision}'"
        return " in ".join(filter(None, (provider, precision))) or "an engine"


@dataclass(frozen=True)
class MachineFacts:
    """What this process has found out about the machine. New facts are added.

    Args:
        times: times of graphs.
        outcomes: outcomes of proofs.
        missing: providers that cannot be used for any graph, with the reason. They are not tried again.
    """

    times: MeasuredTimes = field(default_factory=dict)
    outcomes: KnownOutcomes = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


class CandidateProver:
    """Proves combinations of one bundle on this machine, each once.

    Args:
        bundle: a bundle with a proof.
        request: options of the engines.
        facts: what this process knows of the machine.
        candidates: combinations that may be proven.
        anew: prove all, whatever is known and however long it takes.
    """

    def __init__(
        self,
        bundle: Bundle,
        request: EngineRequest,
        facts: MachineFacts,
        candidates: Sequence[Candidate],
        anew: bool = False,
    ) -> None:
        self.outcomes: dict[Candidate, ProofOutcome] = {}
        self.engines: dict[Candidate, OpenEngine] = {}
        """Engines that were opened for a proof, whatever its outcome."""
        self.out_of_time = False
        """True if a combination was not tried because no time was left."""
        self.directory = request.cache or timing.default_cache()
        self._bundle = bundle
        self._request = request
        self._anew = anew
        used_providers = {candidate.provider for candidate in candidates}
        self._cache = OutcomeCache(self.directory, bundle, request.threads, used_providers, facts.outcomes)
        self._known = {} if anew else self._cache.load()
        self._prover: Prover | None = None
        self._missing = {} if anew else facts.missing
        self._stop = unhindered_clock() + request.budget_s

    def known(self, candidate: Candidate) -> ProofOutcome | None:
        """Return an outcome of before, or None."""
        return self._known.get(str(candidate))

    def prove(self, candidates: Sequence[Candidate]) -> None:
        """Prove combinations in this order, and keep the outcomes.

        The time limit counts once one was compared here and one has passed: without one there is nothing to serve with.

        Raises:
            BundleError: a graph does not belong to the manifest, or a file was changed.
        """
        compared = False
        for candidate in candidates:
            if candidate in self.engines:  # compared already
                continue
            self.outcomes[candidate] = self.known(candidate) or self._skip(candidate) or self._compare(candidate)
            compared = compared or candidate in self.engines
        if compared:
            self._cache.store(self.outcomes)

    def open(self, candidate: Candidate) -> OpenEngine | None:
        """Return the engine of a combination that passed. None: it does not open any more."""
        engine = self.engines.get(candidate)
        return engine or providers.try_open(self._bundle, candidate, self._request.threads, self.directory)

    @property
    def passed(self) -> list[Candidate]:
        """Return the combinations that may be used, in the order in which they were proven."""
        return [candidate for candidate, outcome in self.outcomes.items() if outcome.passed]

    def _skip(self, candidate: Candidate) -> ProofOutcome | None:
        """Return the outcome of a combination that is not compared. None: it is."""
        if candidate.provider in self._missing:
            return _unusable(self._missing[candidate.provider])
        reason = ""
        if failed_gate(self._bundle.manifest, candidate):
            reason = "it failed its gate at the export"
        elif candidate.provider == TENSORRT and self._request.provider == AUTO and not self._anew:
            reason = "TensorRT takes minutes for its first engine. `palm-serve prove` builds and proves it"
        elif self._prover is not None and self.passed and unhindered_clock() > self._stop and not self._anew:
            self.out_of_time = True
            reason = "no time was left. The next start goes on, and `palm-serve prove` proves all"
        return ProofOutcome(status="not_tried", reason=reason, summary=reason) if reason else None

    def _compare(self, candidate: Candidate) -> ProofOutcome:
        self._prover = self._prover or Prover(self._bundle)
        try:
            engine = providers.open_candidate(self._bundle, candidate, self._request.threads, self.directory)
        except EngineError as error:
            if isinstance(error, ProviderMissing):
                self._missing[candidate.provider] = one_line(error)
            return _unusable(one_line(error))
        self.engines[candidate] = engine
        return judge_result(self._prover.compare(engine), self._prover)


def select_proven_engine(bundle: Bundle, request: EngineRequest, facts: MachineFacts) -> ServedEngine:
    """Select and open the engine for a bundle on this machine. Its `info` tells what was looked at.

    A combination is used only if it passes the proof of the bundle. It is proven once for each bundle, machine, driver and
    version of the libraries. Of those that passed, the fastest is used. A bundle of an earlier version has no proof: see
    `engine.providers.select_engine`.

    Args:
        bundle: the bundle.
        request: options of the engine.
        facts: what this process knows of the machine.

    Raises:
        EngineError: nothing of what is asked for can be used.
        BundleError: a graph does not belong to the manifest, or a file was changed.
    """
    *preferred, last = request.provider.split(",")
    for name in preferred:
        try:
            return _select(bundle, replace(request, provider=name), facts)
        except EngineError as error:
            log.warning("%s; trying the next of --provider %s", error, request.provider)
    return _select(bundle, replace(request, provider=last), facts)


def _select(bundle: Bundle, request: EngineRequest, facts: MachineFacts) -> ServedEngine:
    """Select the engine for one provider, or for `auto`."""
    if bundle.proof is None:
        return providers.select_engine(
            bundle, request.provider, request.precision, request.threads, request.cache, facts.times, request.variant
        )
    candidates = requested_candidates(bundle, request)
    prover = CandidateProver(bundle, request, facts, candidates)
    selected = _select_by_earlier_times(bundle, candidates, prover, request, facts) or _select_by_new_times(
        bundle, candidates, prover, request, facts
    )
    _log_outcomes(prover.outcomes, bundle)
    for provider, reason in facts.missing.items():
        _warn_once(f"{provider} is not used: {reason}")
    bundle.verify()
    if selected is None:
        raise EngineError(f"{bundle.path}: {request} cannot be had: {_describe_failures(prover.outcomes)}")
    selected_candidate, engine, times = selected
    selection = _describe_selection(prover.outcomes, times, selected_candidate, request)
    engine.info = replace(engine.info, selection=selection)
    log.info("%s %s: %s", bundle.manifest.name, bundle.manifest.version[:12], selection.reason)
    plain = prover.outcomes.get(PLAIN)
    if not bundle.has_graph(PLAIN.variant):
        log.warning(
            "%s: without its plain graph, which was not fetched, nothing can replace an engine that fails",
            bundle.manifest.name,
        )
        return engine
    if selected_candidate == PLAIN or (plain is not None and plain.status == "failed"):
        return engine
    return FallbackEngine(engine, functools.partial(_open_plain, bundle, request, facts))


_Selected = tuple[Candidate, OpenEngine, Mapping[Candidate, Times]]


def _select_by_earlier_times(
    bundle: Bundle,
    candidates: Sequence[Candidate],
    prover: CandidateProver,
    request: EngineRequest,
    facts: MachineFacts,
) -> _Selected | None:
    """Take the fastest that passes, by the times of such graphs. Slower ones are not proven. None: new times are needed."""
    times = known_times(bundle, candidates, request.threads, prover.directory, facts.times)
    for candidate in candidates:
        outcome = prover.known(candidate)
        if outcome is not None and outcome.passed and candidate not in times:
            return None
    for candidate in rank_times(times):
        prover.prove([candidate])
        engine = prover.open(candidate) if prover.outcomes[candidate].passed else None
        if engine is None:
            continue
        reason = "it is slower, or as fast and less exact, by the times of such graphs"
        not_tried = ProofOutcome(status="not_tried", reason=reason, summary=reason)
        for slower_candidate in candidates:
            if slower_candidate not in prover.outcomes:
                prover.outcomes[slower_candidate] = prover.known(slower_candidate) or not_tried
        return candidate, engine, times
    return None


def _select_by_new_times(
    bundle: Bundle,
    candidates: Sequence[Candidate],
    prover: CandidateProver,
    request: EngineRequest,
    facts: MachineFacts,
) -> _Selected | None:
    """Prove all, time all that opened, and take the fastest that passed. None: nothing passed and runs."""
    prover.prove(candidates)
    engines = dict(prover.engines)
    for candidate in prover.passed:
        engine = prover.open(candidate)
        if engine is not None:
            engines[candidate] = engine
    usable = [candidate for candidate in prover.passed if candidate in engines]
    if not usable:
        return None
    if len(engines) == 1:
        return usable[0], engines[usable[0]], {}
    ordered = {candidate: engines[candidate] for candidate in candidates if candidate in engines}
    times = measure_engines(bundle, ordered)
    if not prover.out_of_time:
        keep_times(bundle, candidates, request.threads, prover.directory, facts.times, times)
    for candidate in rank_times(times):
        if candidate in usable:
            return candidate, engines[candidate], times
    return None


def requested_candidates(bundle: Bundle, request: EngineRequest) -> list[Candidate]:
    """Return the combinations of this machine that a request allows.

    Raises:
        EngineError: a name is unknown, this machine lacks the provider, or the bundle lacks a graph.
    """
    available = providers.available_providers()
    providers.check_names(request.provider, request.precision, available)
    candidates = []
    for candidate in machine_candidates(bundle.manifest, available):
        if request.allows(candidate) and bundle.has_graph(candidate.variant):
            candidates.append(candidate)
    return candidates or [providers.ungated_candidate(bundle, request.provider, request.precision)]


def _unusable(reason: str) -> ProofOutcome:
    return ProofOutcome(
        status="unusable", reason=reason, summary="it cannot be opened here. The server's log says why."
    )


def _open_plain(bundle: Bundle, request: EngineRequest, facts: MachineFacts) -> ServedEngine:
    """Open the plain graph on the CPU in place of an engine that failed, if it passes the proof.

    Raises:
        EngineError: it does not pass, or does not open.
    """
    prover = CandidateProver(bundle, request, facts, [PLAIN])
    prover.prove([PLAIN])
    engine = prover.open(PLAIN) if prover.passed else None
    if engine is None:
        raise EngineError(f"{PLAIN} cannot be had: {prover.outcomes[PLAIN].reason or 'the log says why'}")
    return engine


@functools.cache
def _warn_once(message: str) -> None:
    """Log a warning about the machine once in a process."""
    log.warning(message)


def _log_outcomes(outcomes: Mapping[Candidate, ProofOutcome], bundle: Bundle) -> None:
    """Log each combination."""
    for candidate, outcome in outcomes.items():
        name = f"{bundle.manifest.name}: {candidate}"
        if outcome.passed:
            gap = outcome.figures.get("max_logit_difference", 0.0)
            log.info("%s passed the proof, largest difference of a logit %.2g", name, gap)
        elif outcome.status == "failed":
            log.warning("%s failed the proof and is not used: %s", name, outcome.reason)
        elif outcome.status == "unusable":
            _warn_once(f"{candidate.provider} is not used: {outcome.reason}")
        elif outcome.status == "not_tried":
            log.info("%s is not tried: %s", name, outcome.reason)


def _describe_failures(outcomes: Mapping[Candidate, ProofOutcome]) -> str:
    failures = []
    for candidate, outcome in outcomes.items():
        failures.append(f"{candidate} {_FAILURES[outcome.status]}: {outcome.reason or 'the log says why'}")
    return "; ".join(dict.fromkeys(failures))


def _describe_selection(
    outcomes: Mapping[Candidate, ProofOutcome],
    times: Mapping[Candidate, Times],
    selected_candidate: Candidate,
    request: EngineRequest,
) -> EngineSelection:
    trials = []
    for candidate, outcome in outcomes.items():
        latency_ms = 1e3 * times[candidate][0] if candidate in times else 0.0
        trials.append(
            EngineTrial(
                provider=candidate.provider,
                precision=candidate.precision,
                variant=candidate.variant,
                outcome=outcome.status,
                reason=outcome.summary,
                latency_ms=latency_ms,
                is_chosen=candidate == selected_candidate,
            )
        )
    passed_count = sum(outcome.passed for outcome in outcomes.values())
    reason = f"{selected_candidate} is the only combination that passed the proof"
    if passed_count > 1:
        reason = (
            f"{selected_candidate} is the fastest of {passed_count} that passed the proof, or as fast and more exact"
        )
    if not request.is_auto:
        reason += f", of those that --provider {request.provider} --precision {request.precision} allow"
    return EngineSelection(tuple(trials), reason)

"""Outcomes of proofs on this machine, and the cache that keeps them."""

import importlib.metadata
import json
import logging
import math
from collections.abc import Iterable, Mapping, MutableMapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from palm_serve.bundle.loader import Bundle
from palm_serve.engine.candidate import Candidate
from palm_serve.engine.gpu import gpu_facts
from palm_serve.engine.machine_cache import MachineCache
from palm_serve.engine.options import CUDA, OPENVINO, TENSORRT
from palm_serve.engine.timing import machine_facts
from palm_serve.errors import shorten_message
from palm_serve.proof.comparison import (
    CONFIDENCE_LIMIT,
    EQUAL_SHARE,
    INVARIANCE_LIMIT,
    METRIC_DROP,
    ParityResult,
)
from palm_serve.proof.proving import Prover, check_proof

log = logging.getLogger(__name__)

Status = Literal["passed", "failed", "unusable", "not_tried"]


class ProofOutcome(BaseModel):
    """Outcome of one combination of graph, execution provider and precision."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    status: Status
    reason: str = ""
    """Reason for the log. It may quote texts of dev and files."""
    summary: str = ""
    """Reason for clients, without texts and files."""
    figures: dict[str, float] = {}

    @property
    def passed(self) -> bool:
        """Return True if the combination may be used."""
        return self.status == "passed"


Outcomes = Mapping[str, ProofOutcome]
"""Outcomes by candidate."""
KnownOutcomes = MutableMapping[str, Outcomes]
"""Outcomes of this process, by a digest of everything that they depend on."""


def judge_result(result: ParityResult, prover: Prover) -> ProofOutcome:
    """Return the outcome of a comparison with the proof."""
    reason = check_proof(result, prover.examples)
    values = {
        "max_logit_difference": result.max_difference,
        "answers_equal": result.equal_share,
        "answers_invariant": result.invariant_share,
        "probability_drift": result.drift,
        "examples": float(prover.examples),
        "shapes": float(prover.shapes),
    }
    figures = {}
    for name, value in values.items():
        if math.isfinite(value):
            figures[name] = float(f"{value:.4g}")
    if reason is None:
        return ProofOutcome(status="passed", figures=figures)
    return ProofOutcome(status="failed", reason=shorten_message(reason), summary=_summarize(result), figures=figures)


class OutcomeCache:
    """Keeps the outcomes of a bundle, in a file for each bundle, machine, driver and version of the libraries.

    Args:
        directory: directory of the files. None: no file is written.
        bundle: the bundle.
        threads: threads of one run. None: one for each usable physical core.
        providers: execution providers that are compared.
        process_outcomes: outcomes of this process. They are used before the file, and where no file can be written.
    """

    def __init__(
        self,
        directory: Path | None,
        bundle: Bundle,
        threads: int | None,
        providers: Iterable[str],
        process_outcomes: KnownOutcomes,
    ) -> None:
        key = {
            **machine_facts(),
            "bundle": bundle.manifest.version,
            "threads": str(threads),
            "rules": json.dumps([CONFIDENCE_LIMIT, INVARIANCE_LIMIT, EQUAL_SHARE, METRIC_DROP]),
        }
        used = set(providers)
        for name in ("numpy", "tokenizers", *(("openvino",) if OPENVINO in used else ())):
            key[name] = importlib.metadata.version(name)
        if used & {CUDA, TENSORRT}:
            key |= gpu_facts()
        self._file = MachineCache(directory, "proof", key)
        self._process_outcomes = process_outcomes

    def load(self) -> dict[str, ProofOutcome]:
        """Return the outcomes by candidate. Empty: none is kept."""
        process_outcomes = self._process_outcomes.get(self._file.digest)
        if process_outcomes:
            return dict(process_outcomes)
        outcomes = {}
        try:
            for name, content in (self._file.read() or {}).items():
                outcomes[name] = ProofOutcome.model_validate(content)
        except (ValidationError, AttributeError) as error:
            log.info("%s cannot be used, the proof is repeated: %s", self._file.file, error)
            return {}
        return outcomes

    def store(self, outcomes: Mapping[Candidate, ProofOutcome]) -> None:
        """Keep what was compared. Without a writable directory, it is kept for this process only."""
        kept_outcomes = self.load()
        for candidate, outcome in outcomes.items():
            if outcome.status in ("passed", "failed"):
                kept_outcomes[str(candidate)] = outcome
        self._process_outcomes[self._file.digest] = kept_outcomes
        content = {}
        for name, outcome in kept_outcomes.items():
            content[name] = outcome.model_dump(mode="json")
        fault = self._file.write(content)
        if fault:
            log.warning(
                "the outcome of the proof cannot be kept, so the next start repeats it: %s. Set --cache-dir.", fault
            )


def _summarize(result: ParityResult) -> str:
    """Return why a result failed, without the text of an example."""
    if result.worst is not None and not math.isfinite(result.worst.size):
        return f"the output '{result.worst.output}' cannot be computed, has another shape, or is not finite"
    if result.unequal:
        return f"{len(result.unequal)} of {result.compared} answers differ"
    if result.is_exact and not result.max_difference <= result.logit_limit:
        return f"a logit differs by {result.max_difference:.2g}, and {result.logit_limit:g} is the limit"
    if result.uncertain:
        return f"{len(result.uncertain)} of {result.compared} answers differ in confidence"
    if not result.compared:
        return "no answer was compared"
    dependent = len(result.batch_dependent) + len(result.batch_drifting)
    return f"{dependent} of {result.singles} answers depend on the batch"

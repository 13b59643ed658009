"""Which graph runs on which provider: what the bundle's gates allow, what the machine has, and what of it is fastest."""

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort

from palm_serve.bundle.loader import Bundle
from palm_serve.bundle.manifest import Variant
from palm_serve.engine.inputs import pad_batch
from palm_serve.engine.openvino import openvino_device
from palm_serve.engine.session import CPU, CUDA, OPENVINO, ORT_NAMES, TENSORRT, OrtEngine, open_engine
from palm_serve.errors import BundleError, EngineError
from palm_serve.types import Batch, Encoding

log = logging.getLogger(__name__)

AUTO = "auto"
PRECISIONS = ("fp32", "bf16", "fp16", "int8")
"""From exact to coarse: the order of preference where nothing is faster."""

_TIMING_BUDGET_S = 1.0
_WORTH_LEAVING = 0.9
"""A later candidate must need less than this share of the best one's time, so that noise does not decide."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to run a bundle."""

    variant: str
    provider: str
    precision: str

    def __str__(self) -> str:
        return f"{self.provider} in {self.precision} ({self.variant})"


def available_providers() -> tuple[str, ...]:
    """Providers that look usable here. A session may still be refused: CUDA is listed on machines without a GPU."""
    listed = ort.get_available_providers()
    found = [name for name in (TENSORRT, CUDA) if ORT_NAMES[name] in listed]
    if openvino_device() is not None:
        found.append(OPENVINO)
    return (*found, CPU)


def select_session(
    bundle: Bundle, provider: str = AUTO, precision: str = AUTO, threads: int | None = None
) -> OrtEngine:
    """The engine for a bundle on this machine.

    `auto` uses combinations whose gate in the manifest passed, and plain fp32 on the CPU, and takes the fastest that opens. A provider or a
    precision that is asked for is used or refused, never replaced; without a passed gate this is logged as a warning.

    Raises EngineError where nothing fits, BundleError for a graph that does not belong to the manifest.
    """
    present = available_providers()
    _check_names(provider, precision, present)
    candidates = gated_candidates(bundle, present, provider, precision)
    if not candidates:
        candidates = [_ungated(bundle, provider if provider != AUTO else CPU, precision)]
        log.warning(
            "%s has no passed gate in the bundle: its answers were not compared with the trained model's", candidates[0]
        )
    engines = _open(bundle, candidates, threads, tolerant=provider == AUTO)
    return engines[0] if len(engines) == 1 else _fastest(bundle, engines)


def gated_candidates(
    bundle: Bundle, present: Iterable[str], provider: str = AUTO, precision: str = AUTO
) -> list[Candidate]:
    """Allowed combinations for the providers that are `present`, exact ones first."""
    allowed = [Candidate("plain", CPU, "fp32")]
    for name, variant in bundle.manifest.variants.items():
        for gate in variant.gates:
            candidate = Candidate(name, gate.provider, gate.precision)
            if gate.passed and gate.precision in PRECISIONS and candidate not in allowed:
                allowed.append(candidate)
    usable = set(present)
    fitting = [
        c
        for c in allowed
        if c.provider in usable and provider in (AUTO, c.provider) and precision in (AUTO, c.precision)
    ]
    return sorted(fitting, key=lambda c: PRECISIONS.index(c.precision))


def _check_names(provider: str, precision: str, present: tuple[str, ...]) -> None:
    if provider != AUTO and provider not in ORT_NAMES:
        raise EngineError(f"provider '{provider}' is unknown; this machine has: {', '.join(present)} (or 'auto')")
    if provider != AUTO and provider not in present:
        raise EngineError(
            f"provider '{provider}' cannot be had on this machine, which has: {', '.join(present)} (or 'auto')"
        )
    if precision != AUTO and precision not in PRECISIONS:
        raise EngineError(f"precision '{precision}' is unknown; there are: {', '.join(PRECISIONS)} (or 'auto')")


def _ungated(bundle: Bundle, provider: str, precision: str) -> Candidate:
    """A combination that was asked for but has no passed gate."""
    precision = "fp32" if precision == AUTO else precision
    if precision == "bf16" and provider != OPENVINO:
        raise EngineError(f"{provider} cannot compute in bf16; OpenVINO can")
    for name, variant in bundle.manifest.variants.items():
        if variant.weights == _weights(provider, precision):
            return Candidate(name, provider, precision)
    have = ", ".join(sorted({variant.weights for variant in bundle.manifest.variants.values()}))
    raise EngineError(
        f"the bundle has no graph for {precision} on {provider} (weights it has: {have}); export it with `palm-export --precision {precision}`"
    )


def _weights(provider: str, precision: str) -> str:
    """Weights of the graphs that this precision takes: OpenVINO and TensorRT lower the precision of an fp32 graph themselves."""
    lowers = (provider == OPENVINO and precision in ("bf16", "fp16")) or (provider == TENSORRT and precision == "fp16")
    return "fp32" if lowers else precision


def _open(bundle: Bundle, candidates: list[Candidate], threads: int | None, tolerant: bool) -> list[OrtEngine]:
    engines, failures = [], []
    for candidate in candidates:
        try:
            engine = open_engine(
                bundle.graph(candidate.variant), candidate.provider, candidate.precision, threads, candidate.variant
            )
        except EngineError as error:
            if not tolerant:
                raise
            failures.append(str(error))
            log.warning("skipped %s: %s", candidate, error)
            continue
        check_graph(bundle, candidate.variant, engine)
        engines.append(engine)
    if not engines:
        raise EngineError("no provider can run this bundle: " + "; ".join(failures))
    return engines


def check_graph(bundle: Bundle, name: str, engine: OrtEngine) -> None:
    """Raises BundleError unless the graph was made for these tasks and this tokenizer, and has the manifest's inputs and outputs."""
    variant: Variant = bundle.manifest.variants[name]
    where = f"{bundle.path}/{variant.file}"
    found = engine.metadata.get("palm.digest", "(none)")
    if found != bundle.graph_digest():
        raise BundleError(
            f"{where} was exported for other tasks or another tokenizer: palm.digest is {found[:12]}, the manifest gives "
            f"{bundle.graph_digest()[:12]}; export again"
        )
    wanted = {tensor.name: f"tensor({tensor.dtype})" for tensor in bundle.manifest.inputs}
    if engine.inputs != wanted:
        raise BundleError(
            f"{where} takes {_listing(engine.inputs)}, the manifest says {_listing(wanted)}; export again"
        )
    missing = [
        output for task in bundle.manifest.tasks.values() for output in task.outputs if output not in engine.outputs
    ]
    if missing:
        raise BundleError(
            f"{where} lacks the output '{missing[0]}' (it has: {', '.join(engine.outputs)}); export again"
        )


def _listing(inputs: dict[str, str]) -> str:
    return ", ".join(f"{name} {kind}" for name, kind in sorted(inputs.items()))


def _fastest(bundle: Bundle, engines: list[OrtEngine]) -> OrtEngine:
    """The engine with the least time for a batch of 8 short texts."""
    batch = sample_batch(bundle, 8, 16)
    best, least = engines[0], float("inf")
    for engine in engines:
        elapsed = _time(engine, batch, _TIMING_BUDGET_S / len(engines))
        log.info(
            "%s in %s (%s): %.2f ms", engine.info.provider, engine.info.precision, engine.info.variant, elapsed * 1e3
        )
        if elapsed < least * _WORTH_LEAVING:
            best, least = engine, elapsed
    return best


def _time(engine: OrtEngine, batch: Batch, budget_s: float) -> float:
    """Least time of one run, seconds; the first, which compiles, is not counted."""
    engine.run(batch)
    least = float("inf")
    stop = time.perf_counter() + budget_s
    for _ in range(20):
        start = time.perf_counter()
        engine.run(batch)
        now = time.perf_counter()
        least = min(least, now - start)
        if now > stop:
            break
    return least


def sample_batch(bundle: Bundle, rows: int, length: int) -> Batch:
    """A batch of arbitrary pieces, for timing and warm-up; `length` tokens, no more than the model takes."""
    size = min(length, bundle.manifest.max_length)
    ids = np.arange(size, dtype=np.int64) % bundle.manifest.encoder.vocab_size
    encoding = Encoding(ids.tolist(), [0] * size, [(0, 0)] * size, [0] * size)
    inputs = [tensor.name for tensor in bundle.manifest.inputs]
    return pad_batch([encoding] * rows, inputs, bundle.manifest.encoder.pad_token_id)

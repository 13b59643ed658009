"""Provider selection: which graph of a bundle runs on which execution provider, by gates, availability and speed."""

import functools
import importlib.util
import logging
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import onnxruntime as ort

from palm_serve.bundle.loader import Bundle
from palm_serve.bundle.manifest import Gate, GraphVariant
from palm_serve.engine import timing
from palm_serve.engine.candidate import PLAIN, PRECISIONS, Candidate
from palm_serve.engine.candidate_times import keep_times, known_times, measure_engines, rank_times
from palm_serve.engine.cpu_features import computes_in_bf16, int8_instructions, saturates_int8
from palm_serve.engine.graph_check import check_graph
from palm_serve.engine.options import CPU, CUDA, OPENVINO, ORT_NAMES, PROVIDERS, TENSORRT
from palm_serve.engine.provider_fallback import FallbackEngine
from palm_serve.engine.session import OpenEngine, open_engine
from palm_serve.errors import EngineError
from palm_serve.types import ServedEngine

log = logging.getLogger(__name__)

AUTO = "auto"


def available_providers() -> tuple[str, ...]:
    """Return the providers that look usable. A session may still fail: CUDA is listed on machines without a GPU."""
    ort_providers = ort.get_available_providers()
    available = []
    for name in (TENSORRT, CUDA):
        if ORT_NAMES[name] in ort_providers:
            available.append(name)
    if importlib.util.find_spec("openvino") is not None:  # importing it takes longer than many a server's start
        available.append(OPENVINO)
    return (*available, CPU)


def select_engine(
    bundle: Bundle,
    provider: str = AUTO,
    precision: str = AUTO,
    threads: int | None = None,
    cache: Path | None = None,
    measured: timing.MeasuredTimes | None = None,
    variant: str = AUTO,
) -> ServedEngine:
    """Select and open the engine for a bundle on this machine.

    `auto` uses combinations whose gate in the manifest passed and holds on this processor, and plain fp32 on the CPU. It
    takes the fastest that opens. Times are measured once for graphs of the same shape, whatever their weights. A provider
    or precision that is requested is also used without a passed gate, with a warning. If the engine fails later, the
    plain graph runs on the CPU.

    Args:
        bundle: the bundle.
        provider: execution provider, or `auto`.
        precision: precision of the computation, or `auto`.
        threads: threads of one run. None: one for each usable physical core.
        cache: directory for measured times and compiled graphs. None: the user's cache directory.
        measured: times that this process has measured. New ones are added.
        variant: graph of the bundle, or `auto`.

    Raises:
        EngineError: a name is unknown, nothing fits, or not even the plain graph opens.
        BundleError: a graph does not belong to the manifest, or a file was changed.
    """
    available = available_providers()
    check_names(provider, precision, available)
    candidates = [
        candidate
        for candidate in gated_candidates(bundle, available, provider, precision)
        if variant in (AUTO, candidate.variant)
    ]
    if not candidates:
        candidates = [ungated_candidate(bundle, provider, precision)]
        log.warning(
            "%s has no passed gate in the bundle: its answers were not compared with the trained model's", candidates[0]
        )
    _log_unusable_gates(bundle, available)
    engine = _open_fastest(bundle, candidates, threads, cache or timing.default_cache(), measured)
    bundle.verify()
    if engine is None:
        if PLAIN in candidates:
            raise EngineError(f"{bundle.graph()}: no provider can run this bundle: the log says why")
        names = ", ".join(map(str, candidates))
        raise EngineError(
            f"{bundle.graph()}: {names} cannot be had on this machine: the log says why. "
            "Name a fallback, as in --provider CUDA,CPU, or leave the choice to auto."
        )
    if (engine.info.provider, engine.info.variant) == (CPU, "plain"):
        return engine
    return FallbackEngine(engine, functools.partial(open_candidate, bundle, PLAIN, threads, None))


def gated_candidates(
    bundle: Bundle, available: Iterable[str], provider: str = AUTO, precision: str = AUTO
) -> list[Candidate]:
    """Return the combinations whose gate passed, exact ones first.

    Args:
        bundle: the bundle.
        available: execution providers of this machine.
        provider: requested provider, or `auto`.
        precision: requested precision, or `auto`.
    """
    passed = [PLAIN]
    for name, variant in bundle.manifest.variants.items():
        for gate in variant.gates:
            candidate = Candidate(name, gate.provider, gate.precision)
            new = gate.precision in PRECISIONS and candidate not in passed
            if new and gate.passed and _holds_here(variant, gate):
                passed.append(candidate)
    usable = set(available)
    candidates = []
    for candidate in passed:
        requested = provider in (AUTO, candidate.provider) and precision in (AUTO, candidate.precision)
        if requested and candidate.provider in usable:
            candidates.append(candidate)
    return sorted(candidates, key=lambda candidate: PRECISIONS.index(candidate.precision))


def check_names(provider: str, precision: str, available: Collection[str]) -> None:
    """Check the names of a provider and a precision.

    Args:
        provider: execution provider, or `auto`.
        precision: precision, or `auto`.
        available: execution providers of this machine.

    Raises:
        EngineError: a name is unknown, or the machine lacks the provider.
    """
    names = f"{', '.join(available)} (or 'auto')"
    if provider != AUTO and provider not in PROVIDERS:
        raise EngineError(f"provider '{provider}' is unknown; this machine has: {names}")
    if provider != AUTO and provider not in available:
        raise EngineError(f"provider '{provider}' is not available on this machine, which has: {names}")
    if precision != AUTO and precision not in PRECISIONS:
        raise EngineError(f"precision '{precision}' is unknown; there are: {', '.join(PRECISIONS)} (or 'auto')")


def ungated_candidate(bundle: Bundle, provider: str, precision: str) -> Candidate:
    """Return a requested combination that has no passed gate.

    Args:
        bundle: the bundle.
        provider: execution provider.
        precision: precision, or `auto`: fp32.

    Raises:
        EngineError: the bundle has no graph for it.
    """
    provider = CPU if provider == AUTO else provider
    precision = "fp32" if precision == AUTO else precision
    if precision == "bf16" and provider != OPENVINO:
        raise EngineError(f"{provider} cannot compute in bf16; OpenVINO can")
    for name, variant in bundle.manifest.variants.items():
        if variant.weights == _weights(provider, precision):
            return Candidate(name, provider, precision)
    weights = ", ".join(sorted({variant.weights for variant in bundle.manifest.variants.values()}))
    raise EngineError(
        f"the bundle has no graph for {precision} on {provider} (weights it has: {weights}); "
        f"export it with `palm-export --precision {precision}`"
    )


def _weights(provider: str, precision: str) -> str:
    """Return the weights of a graph for this precision. OpenVINO and TensorRT lower the precision of fp32 graphs."""
    lowers = (provider == OPENVINO and precision in ("bf16", "fp16")) or (provider == TENSORRT and precision == "fp16")
    return "fp32" if lowers else precision


@functools.cache
def _log_once(message: str) -> None:
    """Log a fact about the machine once in a process."""
    log.info(message)


def _holds_here(variant: GraphVariant, gate: Gate) -> bool:
    """Return False if 8-bit weights saturate here, so that this processor answers differently from that of the gate."""
    on_processor = gate.provider in (CPU, OPENVINO)
    return not (variant.weights == "int8" and variant.weight_bits != 7 and on_processor and saturates_int8())


def _log_unusable_gates(bundle: Bundle, available: tuple[str, ...]) -> None:
    """Log passed gates of the bundle that this machine cannot use."""
    for variant in bundle.manifest.variants.values():
        for gate in variant.gates:
            if gate.passed:
                _log_if_unusable(variant, gate, available)


def _log_if_unusable(variant: GraphVariant, gate: Gate, available: tuple[str, ...]) -> None:
    if gate.provider not in available:
        _log_once(
            f"this machine has no {gate.provider}, which bundles were exported for; it has: {', '.join(available)}"
        )
    elif gate.precision == "bf16" and gate.provider == OPENVINO and not computes_in_bf16():
        _log_once("this processor has neither AMX nor AVX512-BF16: bf16 saves nothing here")
    elif not _holds_here(variant, gate):
        log.warning(
            "%s in int8 did not pass its gate for this processor (%s): 8-bit weights can saturate here. Export the model again.",
            gate.provider,
            int8_instructions(),
        )
    elif gate.instructions not in ("", int8_instructions()):
        _log_once(
            f"int8 passed its gate with {gate.instructions}. This processor has {int8_instructions()} and computes the same integers."
        )


def _open_fastest(
    bundle: Bundle,
    candidates: Sequence[Candidate],
    threads: int | None,
    cache: Path | None,
    measured: timing.MeasuredTimes | None,
) -> OpenEngine | None:
    """Open the fastest candidate, by earlier times of such graphs or by new ones. None: no candidate opens."""
    if len(candidates) == 1:
        return try_open(bundle, candidates[0], threads, cache)
    times = known_times(bundle, candidates, threads, cache, measured)
    if times:
        fastest = rank_times(times)[0]
        log.info("%s, by what was measured of such graphs earlier", fastest)
        engine = try_open(bundle, fastest, threads, cache)
        if engine is not None:
            return engine
    engines: dict[Candidate, OpenEngine] = {}
    for candidate in candidates:
        engine = try_open(bundle, candidate, threads, cache)
        if engine is not None:
            engines[candidate] = engine
    if len(engines) < 2:
        return next(iter(engines.values()), None)
    times = measure_engines(bundle, engines)
    if not times:
        return None
    keep_times(bundle, candidates, threads, cache, measured, times)
    return engines[rank_times(times)[0]]


def try_open(bundle: Bundle, candidate: Candidate, threads: int | None, cache: Path | None) -> OpenEngine | None:
    """Open a graph of a bundle. None: that fails, which is logged.

    Args:
        bundle: the bundle.
        candidate: graph, provider and precision.
        threads: threads of one run. None: one for each usable physical core.
        cache: directory for compiled graphs.
    """
    try:
        return open_candidate(bundle, candidate, threads, cache)
    except EngineError as error:
        log.warning("skipped %s: %s", candidate, error)
        return None


def open_candidate(bundle: Bundle, candidate: Candidate, threads: int | None, cache: Path | None) -> OpenEngine:
    """Open a graph of a bundle.

    Args:
        bundle: the bundle.
        candidate: graph, provider and precision.
        threads: threads of one run. None: one for each usable physical core.
        cache: directory for compiled graphs.

    Raises:
        EngineError: the provider cannot run the graph.
        BundleError: the graph does not belong to the manifest.
    """
    graph = bundle.read_graph(candidate.variant)
    engine = open_engine(graph, candidate.provider, candidate.precision, threads, candidate.variant, cache)
    check_graph(bundle, candidate.variant, engine)
    return engine

"""Provider selection: which graph of a bundle runs on which execution provider, by gates, availability and speed."""

import functools
import importlib.metadata
import importlib.util
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from palm_serve.bundle.loader import Bundle
from palm_serve.bundle.manifest import Gate, GraphVariant
from palm_serve.engine import timing
from palm_serve.engine.cpu_features import computes_in_bf16, int8_instructions, saturates_int8
from palm_serve.engine.options import CPU, CUDA, OPENVINO, ORT_NAMES, PROVIDERS, TENSORRT
from palm_serve.engine.padding import pad_batch
from palm_serve.engine.provider_fallback import FallbackEngine
from palm_serve.engine.session import OpenEngine, open_engine
from palm_serve.errors import BundleError, EngineError
from palm_serve.types import Encoding, PaddedBatch, ServedEngine

log = logging.getLogger(__name__)

AUTO = "auto"
PRECISIONS = ("fp32", "bf16", "fp16", "int8")
"""Precisions from exact to coarse, which is the order of preference at equal speed."""

_TIMING_BUDGET_S = 1.0
_REQUIRED_SPEEDUP = 0.9
_OUTPUT_TYPES = ("tensor(float)", "tensor(float16)", "tensor(double)")
"""Types of outputs that are decoded. Others would be converted, and their answers mean nothing."""
"""A less preferred candidate must need less than this share of the best time, so that noise does not decide."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One combination of graph, execution provider and precision."""

    variant: str
    provider: str
    precision: str

    def __str__(self) -> str:
        return f"{self.provider} in {self.precision} ({self.variant})"


PLAIN = Candidate("plain", CPU, "fp32")
"""The combination that every bundle supports on every machine."""


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
) -> ServedEngine:
    """Select and open the engine for a bundle on this machine.

    `auto` uses combinations whose gate in the manifest passed and holds on this processor, and plain fp32 on the CPU. It
    takes the fastest that opens. Times are measured once for graphs of the same shape, whatever their weights. A provider
    or precision that is requested is also used without a passed gate, with a warning. If none of them opens, or if the
    engine fails later, the plain graph runs on the CPU.

    Args:
        bundle: the bundle.
        provider: execution provider, or `auto`.
        precision: precision of the computation, or `auto`.
        threads: threads of one run. None: one for each usable physical core.
        cache: directory for measured times and compiled graphs. None: the user's cache directory.
        measured: times that this process has measured. New ones are added.

    Raises:
        EngineError: a name is unknown, nothing fits, or not even the plain graph opens.
        BundleError: a graph does not belong to the manifest, or a file was changed.
    """
    available = available_providers()
    _check_names(provider, precision, available)
    candidates = gated_candidates(bundle, available, provider, precision)
    if not candidates:
        candidates = [_ungated_candidate(bundle, provider if provider != AUTO else CPU, precision)]
        log.warning(
            "%s has no passed gate in the bundle: its answers were not compared with the trained model's", candidates[0]
        )
    _log_unusable_gates(bundle, available)
    engine = _open_fastest(bundle, candidates, threads, cache or timing.default_cache(), measured)
    bundle.verify()
    if engine is None:
        if PLAIN in candidates:
            raise EngineError(f"{bundle.graph()}: no provider can run this bundle: the log says why")
        log.error("nothing of what was asked for can run this bundle here; it runs on %s", PLAIN)
        return _open(bundle, PLAIN, threads, None)
    if (engine.info.provider, engine.info.variant) == (CPU, "plain"):
        return engine
    return FallbackEngine(engine, functools.partial(_open, bundle, PLAIN, threads, None))


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


def _check_names(provider: str, precision: str, available: tuple[str, ...]) -> None:
    names = f"{', '.join(available)} (or 'auto')"
    if provider != AUTO and provider not in PROVIDERS:
        raise EngineError(f"provider '{provider}' is unknown; this machine has: {names}")
    if provider != AUTO and provider not in available:
        raise EngineError(f"provider '{provider}' is not available on this machine, which has: {names}")
    if precision != AUTO and precision not in PRECISIONS:
        raise EngineError(f"precision '{precision}' is unknown; there are: {', '.join(PRECISIONS)} (or 'auto')")


def _ungated_candidate(bundle: Bundle, provider: str, precision: str) -> Candidate:
    """Return a requested combination that has no passed gate."""
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
    candidates: list[Candidate],
    threads: int | None,
    cache: Path | None,
    measured: timing.MeasuredTimes | None,
) -> OpenEngine | None:
    """Open the fastest candidate, by earlier times of such graphs or by new ones. None: no candidate opens."""
    if len(candidates) == 1:
        return _try_open(bundle, candidates[0], threads, cache)
    timing_cache = timing.TimingCache(cache, _timing_facts(bundle, candidates, threads), measured)
    cached_times = timing_cache.load()
    times = {}
    for candidate in candidates:
        if str(candidate) in cached_times:
            times[candidate] = cached_times[str(candidate)]
    if times:
        fastest = _fastest(times)
        log.info("%s, by what was measured of such graphs earlier", fastest)
        engine = _try_open(bundle, fastest, threads, cache)
        if engine is not None:
            return engine
    engines: dict[Candidate, OpenEngine] = {}
    for candidate in candidates:
        engine = _try_open(bundle, candidate, threads, cache)
        if engine is not None:
            engines[candidate] = engine
    if len(engines) < 2:
        return next(iter(engines.values()), None)
    times = _measure(bundle, engines)
    if not times:
        return None
    measured_times = {}
    for candidate, candidate_times in times.items():
        measured_times[str(candidate)] = candidate_times
    timing_cache.store(measured_times)
    return engines[_fastest(times)]


def _timing_facts(bundle: Bundle, candidates: list[Candidate], threads: int | None) -> dict[str, str]:
    """Return the facts that the times depend on.

    The values of weights are none of them. So a model that was trained again is not measured again while others serve.
    """
    manifest = bundle.manifest
    used_variants = {candidate.variant for candidate in candidates}
    variants = {}
    for name, variant in manifest.variants.items():
        if name in used_variants:
            # The size is rounded: one more label does not matter, a product that stays in float does.
            size = f"{variant.size:.2g} bytes"
            variants[name] = f"{variant.graph} {variant.weights} opset {variant.opset} {size}"
    encoder = manifest.encoder.model_dump(exclude={"name", "pad_token_id"})
    facts = {
        "threads": str(threads),
        "candidates": "; ".join(map(str, candidates)),
        "graphs": json.dumps({"encoder": encoder, "inputs": manifest.input_names, "variants": variants}),
    }
    if any(candidate.provider == OPENVINO for candidate in candidates):
        facts["openvino"] = importlib.metadata.version("openvino")
    return facts


def _measure(bundle: Bundle, engines: dict[Candidate, OpenEngine]) -> dict[Candidate, timing.Times]:
    """Measure and log the times of the engines. Engines that fail are left out."""
    batches = [sample_batch(bundle, rows, length) for rows, length in timing.SHAPES]
    running = {}
    for candidate, engine in engines.items():
        try:
            for batch in batches:
                engine.run(batch)
        except Exception as error:  # the exceptions of the runtimes share no base class
            log.warning("skipped %s: it fails while running: %s", candidate, error)
        else:
            running[candidate] = engine
    measured = timing.measure(list(running.values()), batches, _TIMING_BUDGET_S)
    times = dict(zip(running, measured, strict=True))
    shapes = ", ".join(f"{rows} x {length}" for rows, length in timing.SHAPES)
    for candidate, seconds in times.items():
        milliseconds = ", ".join(f"{1e3 * value:.2f}" for value in seconds)
        log.info("%s: %s ms for %s tokens", candidate, milliseconds, shapes)
    return times


def _fastest(times: dict[Candidate, timing.Times]) -> Candidate:
    """Return the fastest candidate. `times` are in the order of preference."""
    fastest = next(iter(times))
    for candidate in times:
        if timing.score(times[candidate]) < timing.score(times[fastest]) * _REQUIRED_SPEEDUP:
            fastest = candidate
    return fastest


def _try_open(bundle: Bundle, candidate: Candidate, threads: int | None, cache: Path | None) -> OpenEngine | None:
    try:
        return _open(bundle, candidate, threads, cache)
    except EngineError as error:
        log.warning("skipped %s: %s", candidate, error)
        return None


def _open(bundle: Bundle, candidate: Candidate, threads: int | None, cache: Path | None) -> OpenEngine:
    graph = bundle.read_graph(candidate.variant)
    engine = open_engine(graph, candidate.provider, candidate.precision, threads, candidate.variant, cache)
    check_graph(bundle, candidate.variant, engine)
    return engine


def check_graph(bundle: Bundle, name: str, engine: OpenEngine) -> None:
    """Check that a graph was made for the tasks and the tokenizer of its bundle.

    Args:
        bundle: the bundle.
        name: variant of the graph.
        engine: the open graph.

    Raises:
        BundleError: the digest, the inputs or the outputs differ from the manifest.
    """
    manifest = bundle.manifest
    path = f"{bundle.path}/{manifest.variants[name].file}"
    digest = engine.metadata.get("palm.digest", "(none)")
    if digest != bundle.graph_digest():
        raise BundleError(
            f"{path} was exported for other tasks or another tokenizer: palm.digest is {digest[:12]}, the manifest gives "
            f"{bundle.graph_digest()[:12]} for its tasks and tokenizer.json; export again"
        )
    inputs = {}
    for tensor in manifest.inputs:
        inputs[tensor.name] = f"tensor({tensor.dtype})"
    if engine.inputs != inputs:
        raise BundleError(
            f"{path} takes {_describe(engine.inputs)}, the manifest says {_describe(inputs)}; export again"
        )
    for task_name, task in manifest.tasks.items():
        for output in task.outputs:
            if output not in engine.outputs:
                raise BundleError(
                    f"{path} lacks the output '{output}' (it has: {', '.join(engine.outputs)}); export again"
                )
            if engine.outputs[output] not in _OUTPUT_TYPES:
                raise BundleError(
                    f"{path}: the output '{output}' of the task '{task_name}' must be a tensor of floats, "
                    f"got {engine.outputs[output]}. Export again."
                )


def _describe(inputs: dict[str, str]) -> str:
    return ", ".join(map(" ".join, sorted(inputs.items())))


def sample_batch(bundle: Bundle, rows: int, length: int) -> PaddedBatch:
    """Return a batch of arbitrary tokens, for timing and warm-up.

    Args:
        bundle: the bundle.
        rows: rows of the batch.
        length: tokens of a row. Cut to what the model reads.
    """
    size = min(length, bundle.manifest.max_length)
    ids = np.arange(size, dtype=np.int64) % bundle.manifest.encoder.vocab_size
    encoding = Encoding(ids.tolist(), [0] * size, [(0, 0)] * size, [0] * size)
    return pad_batch([encoding] * rows, bundle.manifest.input_names, bundle.manifest.encoder.pad_token_id)

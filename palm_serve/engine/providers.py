"""Which graph runs on which provider: what the bundle's gates allow, what the machine has, and what of it is fastest."""

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
from palm_serve.types import Encoding, Engine, PaddedBatch

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


PLAIN = Candidate("plain", CPU, "fp32")
"""What every bundle can run as on every machine."""


def available_providers() -> tuple[str, ...]:
    """Providers that look usable here. A session may still be refused: CUDA is listed on machines without a GPU."""
    listed = ort.get_available_providers()
    found = [name for name in (TENSORRT, CUDA) if ORT_NAMES[name] in listed]
    if importlib.util.find_spec("openvino") is not None:  # importing it takes longer than many a server's start
        found.append(OPENVINO)
    return (*found, CPU)


def select_engine(
    bundle: Bundle,
    provider: str = AUTO,
    precision: str = AUTO,
    threads: int | None = None,
    cache: Path | None = None,
    kept: timing.Kept | None = None,
) -> Engine:
    """The engine for a bundle on this machine.

    `auto` uses combinations whose gate in the manifest passed and holds on this processor, and plain fp32 on the CPU.
    It takes the fastest that opens: it is measured
    once for graphs of one shape, whatever their weights, and kept in `kept` and in the directory `cache` (None: the user's). A provider or
    a precision that is asked for is used without having passed a gate too, with a warning. Where nothing of it opens, and where the chosen
    engine fails later, the plain graph runs on the CPU.

    Raises EngineError where a name is unknown or nothing fits or not even the plain graph opens, BundleError for a graph that does not
    belong to the manifest.
    """
    present = available_providers()
    _check_names(provider, precision, present)
    candidates = gated_candidates(bundle, present, provider, precision)
    if not candidates:
        candidates = [_ungated(bundle, provider if provider != AUTO else CPU, precision)]
        log.warning(
            "%s has no passed gate in the bundle: its answers were not compared with the trained model's", candidates[0]
        )
    _tell_what_lacks(bundle, present)
    opened = _choose(bundle, candidates, threads, cache or timing.default_cache(), kept)
    if opened is None:
        if PLAIN in candidates:
            raise EngineError("no provider can run this bundle: the log says why")
        log.error("nothing of what was asked for can run this bundle here; it runs on %s", PLAIN)
        return _open(bundle, PLAIN, threads, None)
    if (opened.info.provider, opened.info.variant) == (CPU, "plain"):
        return opened
    return FallbackEngine(opened, functools.partial(_open, bundle, PLAIN, threads, None))


def gated_candidates(
    bundle: Bundle, present: Iterable[str], provider: str = AUTO, precision: str = AUTO
) -> list[Candidate]:
    """Allowed combinations for the providers that are `present`, exact ones first."""
    allowed = [PLAIN]
    for name, variant in bundle.manifest.variants.items():
        for gate in variant.gates:
            candidate = Candidate(name, gate.provider, gate.precision)
            known = gate.precision in PRECISIONS and candidate not in allowed
            if known and gate.passed and _holds_here(variant, gate):
                allowed.append(candidate)
    usable = set(present)
    fitting = [
        c
        for c in allowed
        if c.provider in usable and provider in (AUTO, c.provider) and precision in (AUTO, c.precision)
    ]
    return sorted(fitting, key=lambda c: PRECISIONS.index(c.precision))


def _check_names(provider: str, precision: str, present: tuple[str, ...]) -> None:
    if provider != AUTO and provider not in PROVIDERS:
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


@functools.cache
def _say(message: str) -> None:
    """Logs what holds for the whole machine, once in a process."""
    log.info(message)


def _holds_here(variant: GraphVariant, gate: Gate) -> bool:
    """Return False where 8-bit weights would saturate, so that this processor answers otherwise than that of the gate."""
    on_processor = gate.provider in (CPU, OPENVINO)
    return not (variant.weights == "int8" and variant.weight_bits != 7 and on_processor and saturates_int8())


def _tell_what_lacks(bundle: Bundle, present: tuple[str, ...]) -> None:
    """Which of the bundle's passed gates this machine cannot use."""
    for variant in bundle.manifest.variants.values():
        for gate in variant.gates:
            if gate.passed and gate.provider not in present:
                _say(
                    f"this machine has no {gate.provider}, which bundles were exported for; it has: {', '.join(present)}"
                )
            elif gate.passed and gate.precision == "bf16" and gate.provider == OPENVINO and not computes_in_bf16():
                _say("this processor has neither AMX nor AVX512-BF16: bf16 saves nothing here")
            elif gate.passed and not _holds_here(variant, gate):
                log.warning(
                    "%s in int8 did not pass its gate for this processor (%s): 8-bit weights can saturate here. Export the model again.",
                    gate.provider,
                    int8_instructions(),
                )
            elif gate.passed and gate.instructions not in ("", int8_instructions()):
                _say(
                    f"int8 passed its gate with {gate.instructions}. This processor has {int8_instructions()} and computes the same integers."
                )


def _choose(
    bundle: Bundle, candidates: list[Candidate], threads: int | None, cache: Path | None, kept: timing.Kept | None
) -> OpenEngine | None:
    """The fastest candidate that opens, or None. What was measured of such graphs earlier is believed."""
    if len(candidates) == 1:
        return _try(bundle, candidates[0], threads, cache)
    facts = {
        "threads": str(threads),
        "candidates": "; ".join(map(str, candidates)),
        "graphs": _graphs(bundle, candidates),
    }
    if any(c.provider == OPENVINO for c in candidates):
        facts["openvino"] = importlib.metadata.version("openvino")
    memory = timing.TimingCache(cache, facts, kept)
    found = memory.load()
    known = {c: found[str(c)] for c in candidates if str(c) in found}
    if known:
        chosen = _fastest(known)
        log.info("%s, by what was measured of such graphs earlier", chosen)
        engine = _try(bundle, chosen, threads, cache)
        if engine is not None:
            return engine
    engines = {c: engine for c in candidates if (engine := _try(bundle, c, threads, cache)) is not None}
    if len(engines) < 2:
        return next(iter(engines.values()), None)
    times = _measured(bundle, engines)
    if not times:
        return None
    memory.store({str(c): least for c, least in times.items()})
    return engines[_fastest(times)]


def _graphs(bundle: Bundle, candidates: list[Candidate]) -> str:
    """What decides how long the candidates take: not the values of weights, so a model that was trained anew is not measured anew, under load."""
    manifest = bundle.manifest
    encoder = manifest.encoder.model_dump(exclude={"name", "pad_token_id"})
    variants = {
        # Roughly: a label more or less does not matter, a product left in float does.
        name: f"{variant.graph} {variant.weights} opset {variant.opset} {variant.size:.2g} bytes"
        for name, variant in manifest.variants.items()
        if name in {candidate.variant for candidate in candidates}
    }
    return json.dumps({"encoder": encoder, "inputs": [one.name for one in manifest.inputs], "variants": variants})


def _measured(bundle: Bundle, engines: dict[Candidate, OpenEngine]) -> dict[Candidate, timing.Times]:
    """Times of those that run; the table goes to the log."""
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
    found = timing.measure(list(running.values()), batches, _TIMING_BUDGET_S)
    times = dict(zip(running, found, strict=True))
    heads = ", ".join(f"{rows} x {length}" for rows, length in timing.SHAPES)
    for candidate, row in times.items():
        log.info("%s: %s ms for %s tokens", candidate, ", ".join(f"{1e3 * value:.2f}" for value in row), heads)
    return times


def _fastest(times: dict[Candidate, timing.Times]) -> Candidate:
    """Of candidates in order of preference."""
    best, *others = times
    for other in others:
        if timing.score(times[other]) < timing.score(times[best]) * _WORTH_LEAVING:
            best = other
    return best


def _try(bundle: Bundle, candidate: Candidate, threads: int | None, cache: Path | None) -> OpenEngine | None:
    try:
        return _open(bundle, candidate, threads, cache)
    except EngineError as error:
        log.warning("skipped %s: %s", candidate, error)
        return None


def _open(bundle: Bundle, candidate: Candidate, threads: int | None, cache: Path | None) -> OpenEngine:
    graph = bundle.graph(candidate.variant)
    engine = open_engine(graph, candidate.provider, candidate.precision, threads, candidate.variant, cache)
    check_graph(bundle, candidate.variant, engine)
    return engine


def check_graph(bundle: Bundle, name: str, engine: OpenEngine) -> None:
    """Raises BundleError unless the graph was made for these tasks and this tokenizer, and has the manifest's inputs and outputs."""
    variant: GraphVariant = bundle.manifest.variants[name]
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


def sample_batch(bundle: Bundle, rows: int, length: int) -> PaddedBatch:
    """A batch of arbitrary pieces, for timing and warm-up; `length` tokens, no more than the model takes."""
    size = min(length, bundle.manifest.max_length)
    ids = np.arange(size, dtype=np.int64) % bundle.manifest.encoder.vocab_size
    encoding = Encoding(ids.tolist(), [0] * size, [(0, 0)] * size, [0] * size)
    inputs = [tensor.name for tensor in bundle.manifest.inputs]
    return pad_batch([encoding] * rows, inputs, bundle.manifest.encoder.pad_token_id)

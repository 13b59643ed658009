"""Times of the combinations of a bundle on this machine, and the order in which they are used."""

import importlib.metadata
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from palm_serve.bundle.loader import Bundle
from palm_serve.engine import timing
from palm_serve.engine.candidate import Candidate
from palm_serve.engine.gpu import gpu_facts
from palm_serve.engine.options import CUDA, OPENVINO, TENSORRT
from palm_serve.engine.padding import pad_batch
from palm_serve.engine.session import OpenEngine
from palm_serve.types import Encoding, PaddedBatch

log = logging.getLogger(__name__)

_TIMING_BUDGET_S = 1.0
_REQUIRED_SPEEDUP = 0.9
"""A less preferred candidate must need less than this share of the best time, so that noise does not decide."""


def known_times(
    bundle: Bundle,
    candidates: Sequence[Candidate],
    threads: int | None,
    cache: Path | None,
    measured: timing.MeasuredTimes | None,
) -> dict[Candidate, timing.Times]:
    """Return the times that were measured of such graphs, in the order of the candidates. Empty: none were.

    Args:
        bundle: the bundle.
        candidates: all candidates that are compared, the most preferred first.
        threads: threads of one run. None: one for each usable physical core.
        cache: directory for times.
        measured: times of this process.
    """
    cached_times = timing.TimingCache(cache, _timing_facts(bundle, candidates, threads), measured).load()
    times = {}
    for candidate in candidates:
        if str(candidate) in cached_times:
            times[candidate] = cached_times[str(candidate)]
    return times


def keep_times(
    bundle: Bundle,
    candidates: Sequence[Candidate],
    threads: int | None,
    cache: Path | None,
    measured: timing.MeasuredTimes | None,
    times: Mapping[Candidate, timing.Times],
) -> None:
    """Keep the times of such graphs for `known_times`.

    Args:
        bundle: the bundle.
        candidates: all candidates that are compared.
        threads: threads of one run. None: one for each usable physical core.
        cache: directory for times.
        measured: times of this process, to which these are added.
        times: times of the candidates that run.
    """
    measured_times = {}
    for candidate, candidate_times in times.items():
        measured_times[str(candidate)] = candidate_times
    timing.TimingCache(cache, _timing_facts(bundle, candidates, threads), measured).store(measured_times)


def _timing_facts(bundle: Bundle, candidates: Sequence[Candidate], threads: int | None) -> dict[str, str]:
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
    if any(candidate.provider in (CUDA, TENSORRT) for candidate in candidates):
        facts |= gpu_facts()
    return facts


def measure_engines(bundle: Bundle, engines: Mapping[Candidate, OpenEngine]) -> dict[Candidate, timing.Times]:
    """Measure and log the times of engines. Engines that fail are left out."""
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


def rank_times(times: Mapping[Candidate, timing.Times]) -> list[Candidate]:
    """Return the candidates, the one to use first. `times` are in the order of preference."""
    remaining = dict(times)
    ranking = []
    while remaining:
        fastest = next(iter(remaining))
        for candidate in remaining:
            if timing.score(remaining[candidate]) < timing.score(remaining[fastest]) * _REQUIRED_SPEEDUP:
                fastest = candidate
        ranking.append(fastest)
        del remaining[fastest]
    return ranking


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

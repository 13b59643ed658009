"""Search for an int8 graph that passes its gate with a margin.

The most sensitive matrix multiplications stay in fp32, more of them at each attempt. All limits are counts and none is
a time, so that the same run gives the same bundle.
"""

from collections.abc import Callable, Sequence

import onnx

from palm_trainer.errors import PalmError
from palm_trainer.evaluation.evaluate import EvaluationSet
from palm_trainer.export.bundle_draft import BundleDraft
from palm_trainer.export.gate import GateMeasurements, GateResult, measure_gates
from palm_trainer.export.reference import Reference
from palm_trainer.export.sensitivity import draw_samples, measure_sensitivities, suggest_exclusions
from palm_trainer.export.variants import INT8, GraphDraft, describe_int8, draft_int8

ReadTrainSets = Callable[[], Sequence[EvaluationSet]]
"""Reads training examples. It is called only if they are needed."""


def needs_margin(measurements: GateMeasurements) -> bool:
    """Return True if int8 fails on a provider, or passes without a margin."""
    return any(not result.margin for result in _int8_results(measurements))


def search_int8(
    draft: BundleDraft,
    plain: bytes,
    measurements: GateMeasurements,
    reference: Reference,
    sets: Sequence[EvaluationSet],
    read_train_sets: ReadTrainSets,
) -> tuple[GateMeasurements, str]:
    """Replace the int8 graph of a draft by the one with the most margin.

    Sensitivity is measured on training examples. The dev examples are used by the gate only.

    Args:
        draft: the bundle, with its first int8 graph.
        plain: the plain graph.
        measurements: gates of the draft.
        reference: answers of the trained model to the dev examples.
        sets: dev examples.
        read_train_sets: reads training examples.

    Returns:
        The gates of the new draft, and a note on what was found.
    """
    unchanged = f"{INT8}: all matrix multiplications are quantized, because there are no training examples"
    try:
        samples = draw_samples(reference.predictor, read_train_sets())
    except PalmError as error:
        return measurements, f"{unchanged}: {error}"
    if not samples:
        return measurements, unchanged
    model = onnx.load_from_string(plain)
    sensitivities = measure_sensitivities(model, samples, reference.predictor.token_outputs)
    candidates = [candidate for candidate in measurements.results if candidate.variant == INT8]
    best = measurements
    best_content = draft.read_variant(INT8)
    best_excluded_count = 0
    for excluded in suggest_exclusions(sensitivities):
        graph = draft_int8(plain, excluded)
        if not isinstance(graph, GraphDraft):
            break
        draft.replace_variant(INT8, graph.content)
        attempt = measurements.update(measure_gates(draft.read_back(), reference, sets, candidates))
        if _quality(attempt) > _quality(best):
            best = attempt
            best_content = graph.content
            best_excluded_count = len(excluded)
        if not needs_margin(attempt):
            break
    draft.replace_variant(INT8, best_content)
    if not best_excluded_count:
        return best, f"{INT8}: the most sensitive matrix multiplications in fp32 give no margin"
    matmul_count = len(sensitivities)
    return best, f"{INT8}: {describe_int8(matmul_count - best_excluded_count, matmul_count)}"


def _quality(measurements: GateMeasurements) -> tuple[int, int]:
    """Return the number of providers on which int8 passes with a margin, and on which it passes."""
    results = _int8_results(measurements)
    return sum(result.margin for result in results), sum(result.gate.passed for result in results)


def _int8_results(measurements: GateMeasurements) -> list[GateResult]:
    results = []
    for candidate, result in measurements.results.items():
        if candidate.variant == INT8:
            results.append(result)
    return results

"""Search for an int8 graph that passes its gate with a margin.

The most sensitive matrix multiplications stay in fp32, more of them at each attempt. All limits are counts and none is
a time, so that the same run gives the same bundle.

An attempt is made only if its logits are near enough to those of the trained model. The number of changed answers grows
about as the error of the logits, so that the share of the squared error that remains foretells it. For a trained demo
with 10 of 540 answers changed, where one may be, no attempt passed: they were to change 7, 5 and 3.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import onnx

from palm_serve.proof.comparison import permitted_changes
from palm_trainer.errors import PalmError
from palm_trainer.evaluation.evaluate import EvaluationSet
from palm_trainer.export.bundle_draft import BundleDraft
from palm_trainer.export.gate import GateMeasurements, GateResult, measure_gates, open_candidates
from palm_trainer.export.reference import Reference
from palm_trainer.export.sensitivity import draw_samples, measure_sensitivities, suggest_exclusions
from palm_trainer.export.variants import INT8, GraphDraft, describe_int8, draft_int8

_REACH = 2.0
"""An attempt is made if it is foretold to change at most so many times the answers that may change. It is a rough figure."""

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
    suggested = list(suggest_exclusions(sensitivities))
    reachable = []
    for excluded in suggested:
        if _is_within_reach(_int8_results(measurements), sensitivities, excluded):
            reachable.append(excluded)
    if suggested and not reachable:
        note = f"{INT8}: too many answers change for the most sensitive matrix multiplications in fp32 to mend it"
        return measurements, note
    best, excluded_count = _try_exclusions(draft, plain, measurements, reference, sets, reachable)
    if not excluded_count:
        return best, f"{INT8}: the most sensitive matrix multiplications in fp32 give no margin"
    matmul_count = len(sensitivities)
    return best, f"{INT8}: {describe_int8(matmul_count - excluded_count, matmul_count)}"


def _try_exclusions(
    draft: BundleDraft,
    plain: bytes,
    measurements: GateMeasurements,
    reference: Reference,
    sets: Sequence[EvaluationSet],
    exclusions: Sequence[tuple[str, ...]],
) -> tuple[GateMeasurements, int]:
    """Measure int8 graphs until one passes with a margin, and leave the best in the draft.

    Args:
        draft: the bundle, with its first int8 graph.
        plain: the plain graph.
        measurements: gates of the draft.
        reference: answers of the trained model to the dev examples.
        sets: dev examples.
        exclusions: multiplications that stay in fp32 at each attempt.

    Returns:
        The gates of the new draft, and the number of multiplications that stay in fp32. 0: the first graph is the best.
    """
    candidates = [candidate for candidate in measurements.results if candidate.variant == INT8]
    content = best_content = draft.read_variant(INT8)
    best = measurements
    best_excluded_count = 0
    for excluded in exclusions:
        graph = draft_int8(plain, excluded)
        if not isinstance(graph, GraphDraft):
            break
        content = graph.content
        draft.replace_variant(INT8, content)
        opened = open_candidates(draft.read_back(), candidates)
        measured = measure_gates(opened.predictors, reference, sets, stop_early=True)
        attempt = measurements.update(measured)
        if _quality(attempt) > _quality(best):
            best = attempt
            best_content = content
            best_excluded_count = len(excluded)
        if not needs_margin(attempt):
            break
    if content is not best_content:
        draft.replace_variant(INT8, best_content)
    return best, best_excluded_count


def _is_within_reach(
    results: Sequence[GateResult], sensitivities: Mapping[str, float], excluded: Sequence[str]
) -> bool:
    """Return True if int8 without some multiplications may change few enough answers on a provider.

    Args:
        results: gates of int8 with all multiplications.
        sensitivities: squared error that each multiplication causes.
        excluded: multiplications that stay in fp32.
    """
    total = sum(sensitivities.values())
    remaining = total - sum(sensitivities[name] for name in excluded)
    error_ratio = math.sqrt(max(remaining, 0.0) / total) if total > 0 else 0.0
    return any(
        result.changed * error_ratio <= _REACH * max(1, permitted_changes(result.compared)) for result in results
    )


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

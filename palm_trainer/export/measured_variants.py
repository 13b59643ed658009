"""The variants of a bundle: which are compared, which are written, and what is reported of them."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from palm_serve.bundle.loader import Bundle
from palm_serve.engine.candidate import PLAIN, Candidate
from palm_serve.engine.providers import available_providers
from palm_serve.engine.timing import Times
from palm_serve.proof.predictor import EnginePredictor
from palm_trainer.data.example import Example
from palm_trainer.evaluation.evaluate import EvaluationSet
from palm_trainer.export.bundle_draft import BundleDraft
from palm_trainer.export.gate import GateMeasurements, measure_gates, open_candidates, uncompared_result
from palm_trainer.export.int8_search import ReadTrainSets, needs_margin, search_int8
from palm_trainer.export.reference import Reference, run_reference
from palm_trainer.export.report import (
    ExportReport,
    find_slow_variants,
    find_unwritten_variants,
    make_rows,
    time_engines,
)
from palm_trainer.export.variants import INT8, PRECISIONS, list_candidates


def measure_variants(
    draft: BundleDraft,
    plain: bytes,
    predictor: EnginePredictor,
    sets: Sequence[EvaluationSet],
    precision: str,
    *,
    train: ReadTrainSets,
    notes: Mapping[str, str],
    say: Callable[[str], None],
) -> tuple[Reference, GateMeasurements, ExportReport]:
    """Time and compare the variants of a draft, and replace an int8 graph that changes too much.

    Args:
        draft: the bundle with its first graphs.
        plain: the plain graph.
        predictor: the trained model.
        sets: dev examples.
        precision: a key of `variants.PRECISIONS`.
        train: reads training examples.
        notes: notes on the graphs, by name.
        say: called with a description of each step.

    Returns:
        The answers of the trained model, the gates of all candidates, and the report.

    Raises:
        ParityError: if the plain graph is not exact on the CPU in fp32.
        ExportError: if it cannot be run there.
    """
    bundle = draft.read_back()
    candidates = list_candidates(draft.variant_weights, PRECISIONS[precision], available_providers())
    opened = open_candidates(bundle, candidates)
    say("timing the variants")
    times = time_engines(bundle, opened.engines)
    say("comparing the variants with the trained model")
    reference = run_reference(predictor, _list_examples(sets), draft.encoder.vocab_size)
    # fp32 is in every bundle, so that nobody has to ask for a fused graph.
    requested = {precision} - {"auto", "fp32"}
    measurements = _measure_in_turn(opened.predictors, times, reference, sets, requested)
    if needs_margin(measurements):
        say("searching for the matrix multiplications that int8 changes most")
        search, note = search_int8(draft, plain, measurements, reference, sets, train)
        notes = {**notes, INT8: note}
        if search is not measurements:
            measurements = search
            bundle = draft.read_back()
            times = times | time_engines(bundle, measurements.engines)
    report = _make_report(bundle, measurements, times, (*notes.values(), *opened.skipped), requested)
    return reference, measurements, report


def _measure_in_turn(
    predictors: Mapping[Candidate, EnginePredictor],
    times: Mapping[Candidate, Times],
    reference: Reference,
    sets: Sequence[EvaluationSet],
    requested: Collection[str],
) -> GateMeasurements:
    """Compare the plain graph, and then the variants that would be written if they passed.

    Args:
        predictors: predictors of all candidates.
        times: times of all candidates.
        reference: answers of the trained model.
        sets: dev examples.
        requested: precisions that the user asked for.
    """
    plain = {}
    for candidate, predictor in predictors.items():
        if candidate.variant == PLAIN.variant:
            plain[candidate] = predictor
    measurements = measure_gates(plain, reference, sets)
    slow = find_slow_variants(measurements.results, times, requested)
    promising = {}
    uncompared = {}
    for candidate, predictor in predictors.items():
        if candidate.variant in slow:
            uncompared[candidate] = uncompared_result(candidate)
        elif candidate.variant != PLAIN.variant:
            promising[candidate] = predictor
    measurements = replace(measurements, results=measurements.results | uncompared)
    return measurements.update(measure_gates(promising, reference, sets)) if promising else measurements


def _list_examples(sets: Sequence[EvaluationSet]) -> list[Example]:
    examples: list[Example] = []
    for evaluation_set in sets:
        examples += evaluation_set.examples
    return examples


def _make_report(
    bundle: Bundle,
    measurements: GateMeasurements,
    times: Mapping[Candidate, Times],
    notes: Sequence[str],
    requested: Collection[str],
) -> ExportReport:
    """Decide which variants are written, and report on all candidates.

    Args:
        bundle: the bundle with all variants.
        measurements: gates of all candidates.
        times: times of all candidates.
        notes: notes of the report.
        requested: precisions that the user asked for.
    """
    passed_times = {}
    for candidate, result in measurements.results.items():
        if result.gate.passed and candidate in times:
            passed_times[candidate] = times[candidate]
    unwritten = find_unwritten_variants(measurements.results, passed_times, requested)
    sizes = {}
    for name, variant in bundle.manifest.variants.items():
        sizes[name] = variant.size
    rows = make_rows(sizes, measurements.results, times, unwritten)
    return ExportReport(rows, tuple(notes), measurements.metric, measurements.metric_rows)

"""Gates of a bundle: whether a graph passes the parity check on a provider in a precision, with its figures."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from palm_serve.bundle.loader import Bundle
from palm_serve.bundle.manifest import Gate
from palm_serve.engine.candidate import PLAIN, Candidate
from palm_serve.engine.cpu_features import computes_in_bf16, int8_instructions
from palm_serve.engine.graph_check import check_graph
from palm_serve.engine.options import CPU, OPENVINO
from palm_serve.engine.providers import available_providers
from palm_serve.engine.session import open_engine
from palm_serve.errors import BundleError, EngineError
from palm_serve.proof.comparison import METRIC_DROP, ParityResult
from palm_serve.proof.predictor import EnginePredictor
from palm_serve.types import Engine, TaskAnswer
from palm_trainer.data.example import Example
from palm_trainer.errors import ExportError, ParityError
from palm_trainer.evaluation.evaluate import EXACT_MATCH, EvaluationSet, Metrics, evaluate
from palm_trainer.export.parity import SHAPES, compare_examples, compare_shapes, compare_singles
from palm_trainer.export.predictors import bundle_predictor
from palm_trainer.export.reference import Reference
from palm_trainer.tasks import task_kind

_ROUNDING = 1e-9
"""Tolerance of a metric drop: one of 500 examples is 0.2 points, but the difference of two such fractions is inexact."""
_MARGIN_BUDGET = 2 / 3
"""Fraction of the permitted changes that a reduced precision may use and still have a margin for other texts."""

Answers = Sequence[dict[str, TaskAnswer]]


@dataclass(frozen=True)
class GateResult:
    """A gate with the reason why it failed (empty if it passed). `margin`: it passed with a margin.

    `changed` of `compared` answers to the examples of dev differ from those of the trained model.
    """

    gate: Gate
    reason: str
    margin: bool = True
    changed: int = 0
    compared: int = 0
    is_compared: bool = True
    """False: the candidate was not compared, because it would not be written."""


@dataclass(frozen=True)
class GateMeasurements:
    """Results of the gates of a bundle.

    Args:
        results: result of each candidate that could be run.
        engines: engines of the same candidates.
        answers: answers of the trained model to all examples.
        unequal_examples: positions of the examples that a candidate answers differently.
        metric: name of the metric in the figures of the gates.
        metric_rows: number of examples that the metric is a share of. 0: it is no share of examples.
    """

    results: dict[Candidate, GateResult]
    engines: dict[Candidate, Engine]
    answers: Answers
    unequal_examples: dict[Candidate, set[int]]
    metric: str
    metric_rows: int = 0

    def equal_examples(self) -> list[bool]:
        """Return True for each example that all passed candidates answer as the trained model does."""
        unequal: set[int] = set()
        for candidate, positions in self.unequal_examples.items():
            if self.results[candidate].gate.passed:
                unequal |= positions
        return [position not in unequal for position in range(len(self.answers))]

    def update(self, newer: "GateMeasurements") -> "GateMeasurements":
        """Return these measurements with those of `newer` in place of the same candidates."""
        return replace(
            self,
            results=self.results | newer.results,
            engines=self.engines | newer.engines,
            unequal_examples=self.unequal_examples | newer.unequal_examples,
        )


class _RecordedAnswers:
    """Predictor for `evaluate` that returns earlier answers."""

    def __init__(self, examples: Sequence[Example], answers: Answers) -> None:
        self._by_id = dict(zip(map(id, examples), answers, strict=True))

    def answers(self, examples: Sequence[Example], tasks: Sequence[str] | None = None) -> list[dict[str, TaskAnswer]]:
        return [self._by_id[id(example)] for example in examples]


@dataclass(frozen=True)
class OpenCandidates:
    """Candidates that this machine can run, with a predictor each, and why it cannot run the others."""

    predictors: Mapping[Candidate, EnginePredictor]
    skipped: tuple[str, ...] = ()

    @property
    def engines(self) -> dict[Candidate, Engine]:
        """Return the engine of each candidate."""
        engines = {}
        for candidate, predictor in self.predictors.items():
            engines[candidate] = predictor.engine
        return engines


def open_candidates(bundle: Bundle, candidates: Sequence[Candidate]) -> OpenCandidates:
    """Open all candidates that this machine can run.

    Args:
        bundle: the bundle, read back from its files.
        candidates: what to open.

    Raises:
        ExportError: if the plain graph cannot be run on the CPU in fp32.
    """
    providers = available_providers()
    predictors: dict[Candidate, EnginePredictor] = {}
    skipped = []
    for candidate in candidates:
        if candidate.provider not in providers:
            skipped.append(f"{candidate}: not available on this machine")
            continue
        if candidate.precision == "bf16" and not computes_in_bf16():
            skipped.append(f"{candidate}: this processor has neither AMX nor AVX512-BF16")
            continue
        try:
            graph = bundle.read_graph(candidate.variant)
            engine = open_engine(graph, candidate.provider, candidate.precision, variant=candidate.variant)
            check_graph(bundle, candidate.variant, engine)
        except (EngineError, BundleError) as error:
            if candidate == PLAIN:
                raise ExportError(f"the exported graph cannot be run: {error}") from error
            skipped.append(f"{candidate}: {error}")
            continue
        predictors[candidate] = bundle_predictor(bundle, engine)
    return OpenCandidates(predictors, tuple(skipped))


def measure_gates(
    predictors: Mapping[Candidate, EnginePredictor],
    reference: Reference,
    sets: Sequence[EvaluationSet],
    stop_early: bool = False,
) -> GateMeasurements:
    """Compare candidates with the trained model.

    A candidate that has failed on the examples of dev is not run on single ones, because it cannot pass any more.

    Args:
        predictors: predictors of the candidates. PLAIN must pass if it is among them.
        reference: answers of the trained model to the examples of all sets.
        sets: dev examples.
        stop_early: compare a candidate only until it has failed. Its figures are those of what was compared.

    Raises:
        ParityError: if the plain graph is not exact on the CPU in fp32.
    """
    parity_results = compare_examples(reference, list(predictors.values()), stop_early)
    exact_results = [result for result in parity_results if result.is_exact]
    if exact_results:
        compare_shapes(reference.random_shapes(SHAPES), exact_results)
    for result in parity_results:
        if not result.has_failed():
            compare_singles(result, reference.examples)
    by_candidate = dict(zip(predictors, parity_results, strict=True))
    if PLAIN in by_candidate:
        _check_plain(by_candidate[PLAIN])
    kinds = {}
    for task, info in reference.predictor.tasks.items():
        kinds[task] = info.kind
    scorable_sets = _select_scorable_sets(sets, reference.answers)
    expected_metrics = evaluate(_RecordedAnswers(reference.examples, reference.answers), kinds, scorable_sets)
    results = {}
    unequal_examples = {}
    for candidate, result in by_candidate.items():
        unequal_examples[candidate] = result.unequal_examples
        drop = math.inf
        metrics: Metrics = {}
        # Answers are missing if an output had a wrong shape, and where the comparison stopped early.
        if sum(map(len, result.answers.values())) == reference.answer_count:
            answers = [result.answers[position] for position in range(len(reference.examples))]
            metrics = evaluate(_RecordedAnswers(reference.examples, answers), kinds, scorable_sets)
            drop = _largest_metric_drop(expected_metrics, metrics, kinds)
        _, metric = _main_metric(metrics, kinds)
        results[candidate] = _make_gate_result(result, drop, len(reference.examples), metric)
    return GateMeasurements(
        results=results,
        engines=OpenCandidates(predictors).engines,
        answers=reference.answers,
        unequal_examples=unequal_examples,
        metric=_main_metric(expected_metrics, kinds)[0],
        metric_rows=_count_metric_rows(expected_metrics, kinds, scorable_sets),
    )


def uncompared_result(candidate: Candidate) -> GateResult:
    """Return the result of a candidate that is not compared, because it would not be written."""
    gate = Gate(provider=candidate.provider, precision=candidate.precision, passed=False)
    return GateResult(gate, "", is_compared=False)


def _check_plain(result: ParityResult) -> None:
    reason = result.check_exact()
    if reason is not None:
        raise ParityError(
            f"parity failed on {PLAIN.provider} in {PLAIN.precision}: {reason}. No bundle was written. "
            "Please report this with your configuration."
        )


def _make_gate_result(result: ParityResult, drop: float, example_count: int, metric: float = math.nan) -> GateResult:
    """Apply the rule of the precision: exact for fp32, few changed answers for the others."""
    info = result.predictor.engine.info
    exact = result.is_exact
    reason = result.check_exact() if exact else result.check_reduced()
    if reason is None and not exact and not drop <= METRIC_DROP + _ROUNDING:
        reason = f"a metric on dev is lower by {100 * drop:.2f} points, and {100 * METRIC_DROP:.1f} is the limit"
    figures = {
        "max_logit_difference": result.max_difference,
        "max_difference_at_padding": result.padding_difference,
        "answers_equal": result.equal_share,
        "answers_invariant": result.invariant_share if result.singles else math.nan,
        "probability_drift": result.drift if result.singles else math.nan,
        "metric_drop": drop,
        "metric": metric,
        "examples": float(example_count),
        "shapes": float(SHAPES if exact else 0),
    }
    finite_figures = {}
    for name, value in figures.items():
        if math.isfinite(value):
            finite_figures[name] = float(f"{value:.4g}")
    uses_instructions = info.precision == "int8" and info.provider in (CPU, OPENVINO)
    gate = Gate(
        provider=info.provider,
        precision=info.precision,
        passed=reason is None,
        figures=finite_figures,
        instructions=int8_instructions() if uses_instructions else "",
    )
    has_margin = exact
    if not exact:
        has_margin = result.check_reduced(_MARGIN_BUDGET) is None and drop <= _MARGIN_BUDGET * METRIC_DROP
    return GateResult(gate, reason or "", reason is None and has_margin, len(result.unequal), result.compared)


def _main_metric(metrics: Metrics, kinds: Mapping[str, str]) -> tuple[str, float]:
    """Return exact match if several tasks share their texts, else the mean of the tasks' primary metrics.

    The metric comes with its name.
    """
    if EXACT_MATCH in metrics:
        return "exact match", float(metrics[EXACT_MATCH])
    names = []
    values = []
    for task, kind in kinds.items():
        if task in metrics:
            metric = task_kind(kind).primary_metric
            names.append(f"{task} {metric}")
            values.append(float(metrics[task][metric]))
    if not values:
        return "", math.nan
    name = names[0] if len(names) == 1 else f"mean of {', '.join(names)}"
    return name, sum(values) / len(values)


def _count_metric_rows(metrics: Metrics, kinds: Mapping[str, str], sets: Sequence[EvaluationSet]) -> int:
    """Return the number of examples that the main metric is a share of, 0 where it is no share of examples."""
    scored = [task for task in kinds if task in metrics]
    exact = EXACT_MATCH in metrics
    if not exact and (len(scored) != 1 or task_kind(kinds[scored[0]]).primary_metric != "accuracy"):
        return 0
    count = 0
    for evaluation_set in sets:
        if exact and len(evaluation_set.fields) < 2:
            continue
        fields = set(evaluation_set.fields.values())
        count += sum(not fields.isdisjoint(example.fields) for example in evaluation_set.examples)
    return count


def _largest_metric_drop(expected: Metrics, metrics: Metrics, kinds: Mapping[str, str]) -> float:
    """Return the largest drop of a primary metric or of exact match. It is negative if all rose."""
    drops = []
    for task, kind in kinds.items():
        if task in expected:
            metric = task_kind(kind).primary_metric
            drops.append(expected[task][metric] - metrics[task][metric])
    if EXACT_MATCH in expected:
        drops.append(expected[EXACT_MATCH] - metrics[EXACT_MATCH])
    return max(drops, default=0.0)


def _select_scorable_sets(sets: Sequence[EvaluationSet], answers: Answers) -> list[EvaluationSet]:
    """Restrict each set to the tasks that answer all its examples. A task on pairs does not answer single texts."""
    scorable_sets = []
    begin = 0
    for evaluation_set in sets:
        set_answers = answers[begin : begin + len(evaluation_set.examples)]
        begin += len(evaluation_set.examples)
        fields = {}
        for task, name in evaluation_set.fields.items():
            if all(task in answer for answer in set_answers):
                fields[task] = name
        scorable_sets.append(EvaluationSet(evaluation_set.data, evaluation_set.examples, fields))
    return scorable_sets

"""Whether a graph passed on a provider in a precision, and by what figures."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from palm_serve.bundle.loader import Bundle
from palm_serve.bundle.manifest import Gate
from palm_serve.engine.cpu_features import computes_in_bf16, int8_instructions
from palm_serve.engine.options import CPU, OPENVINO
from palm_serve.engine.providers import PLAIN, Candidate, available_providers, check_graph
from palm_serve.engine.session import open_engine
from palm_serve.errors import BundleError, EngineError
from palm_serve.types import Engine, TaskAnswer
from palm_trainer.data.example import Example
from palm_trainer.errors import ExportError, ParityError
from palm_trainer.evaluation.evaluate import EvaluationSet, Metrics, evaluate
from palm_trainer.export.parity import METRIC_DROP, SHAPES, Tally, compare_alone, compare_examples, compare_shapes
from palm_trainer.export.predictors import Side
from palm_trainer.tasks import task_kind

_ROUNDING = 1e-9
"""One of 500 examples is 0.2 points, which may be lost; the difference of two such shares is not exactly that."""
_COMFORTABLE = 2 / 3
"""Share of what a reduced precision may change beyond which it has no margin: other text than dev might cost it more."""

Answers = list[dict[str, TaskAnswer]]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Result:
    """A gate, and why it was not passed (empty: it was). `margin`: it was passed with something to spare."""

    gate: Gate
    reason: str
    margin: bool = True


@dataclass(frozen=True)
class Measured:
    """What the gates of a bundle's graphs showed.

    Args:
        results: one per combination that could be run.
        engines: of the same.
        skipped: combinations that this machine cannot run, with the reason.
        answers: of the trained model to the examples of each set.
        differing: positions, over all sets, of the examples that a combination answers otherwise.
    """

    results: dict[Candidate, Result]
    engines: dict[Candidate, Engine]
    skipped: tuple[str, ...]
    answers: list[Answers]
    differing: dict[Candidate, set[int]]

    def agreed(self) -> list[list[bool]]:
        """By set, whether every passed combination answers an example as the trained model does."""
        passed = [found for candidate, found in self.differing.items() if self.results[candidate].gate.passed]
        every = [not any(i in found for found in passed) for i in range(sum(map(len, self.answers)))]
        return list(_split(every, self.answers))

    def with_others(self, other: "Measured") -> "Measured":
        """With what `other` showed of the same combinations in place of this."""
        return replace(
            self,
            results=self.results | other.results,
            engines=self.engines | other.engines,
            differing=self.differing | other.differing,
        )


class _Recorded:
    """Answers that were given before, for `evaluate`."""

    def __init__(self, examples: Sequence[Example], answers: Sequence[dict[str, TaskAnswer]]) -> None:
        self._by_id = {id(example): answer for example, answer in zip(examples, answers, strict=True)}

    def answers(self, examples: Sequence[Example], tasks: Sequence[str] | None = None) -> Answers:
        return [self._by_id[id(example)] for example in examples]


def measure(bundle: Bundle, reference: Side, sets: Sequence[EvaluationSet], wanted: Sequence[Candidate]) -> Measured:
    """Compares variants with the trained model on the providers at hand.

    Args:
        bundle: read back from its files.
        reference: the trained model.
        sets: dev examples.
        wanted: what to measure; PLAIN, which must pass, is first where it is among them.

    Raises ParityError when the plain graph is not exact on the CPU in fp32, ExportError when it cannot be run there.
    """
    sides, skipped = _open(bundle, wanted)
    examples = [example for one in sets for example in one.examples]
    answers, tallies = compare_examples(reference, list(sides.values()), examples)
    compare_shapes(reference, [t for t in tallies if _is_exact(t)], bundle.manifest.encoder.vocab_size, SHAPES)
    for tally in tallies:
        compare_alone(tally, examples)
    by_candidate = dict(zip(sides, tallies, strict=True))
    fault = by_candidate[PLAIN].fault() if PLAIN in by_candidate else None
    if fault is not None:
        raise ParityError(
            f"parity failed on {PLAIN.provider} in {PLAIN.precision}: {fault}. No bundle was written. "
            "Please report this with your configuration."
        )
    kinds = {task: info.kind for task, info in bundle.manifest.tasks.items()}
    by_set = list(_split(answers, [one.examples for one in sets]))
    sets = [_scorable(one, found) for one, found in zip(sets, by_set, strict=True)]
    wanted_metrics = evaluate(_Recorded(examples, answers), kinds, sets)
    results = {}
    for candidate, tally in by_candidate.items():
        drop, metrics = math.inf, {}
        if len(tally.answers) == len(examples):  # fewer: some outputs had a wrong shape
            recorded = _Recorded(examples, [tally.answers[i] for i in range(len(examples))])
            metrics = evaluate(recorded, kinds, sets)
            drop = _drop(wanted_metrics, metrics, kinds)
        results[candidate] = _judge(tally, drop, len(examples), _main(metrics, kinds))
    engines = {candidate: side.engine for candidate, side in sides.items()}
    differing = {candidate: tally.differs for candidate, tally in by_candidate.items()}
    return Measured(results, engines, tuple(skipped), by_set, differing)


def _open(bundle: Bundle, wanted: Sequence[Candidate]) -> tuple[dict[Candidate, Side], list[str]]:
    """Sides of all combinations that open; why the others do not."""
    present = available_providers()
    sides: dict[Candidate, Side] = {}
    skipped = []
    for candidate in wanted:
        if candidate.provider not in present:
            skipped.append(f"{candidate}: not on this machine")
            continue
        if candidate.precision == "bf16" and not computes_in_bf16():
            skipped.append(f"{candidate}: this processor has neither AMX nor AVX512-BF16")
            continue
        try:
            graph = bundle.graph(candidate.variant)
            engine = open_engine(graph, candidate.provider, candidate.precision, variant=candidate.variant)
            check_graph(bundle, candidate.variant, engine)
        except (EngineError, BundleError) as error:
            if candidate == PLAIN:
                raise ExportError(f"the exported graph cannot be run: {error}") from error
            skipped.append(f"{candidate}: {error}")
            continue
        sides[candidate] = Side.bundled(bundle, engine)
    return sides, skipped


def _is_exact(tally: Tally) -> bool:
    return tally.side.engine.info.precision == "fp32"


def _judge(tally: Tally, drop: float, examples: int, metric: float = math.nan) -> Result:
    info = tally.side.engine.info
    exact = _is_exact(tally)
    reason = tally.fault() if exact else tally.loss()
    if reason is None and not exact and not drop <= METRIC_DROP + _ROUNDING:
        reason = f"a metric on dev is lower by {100 * drop:.2f} points, and {100 * METRIC_DROP:.1f} is the limit"
    figures = {
        "max_logit_difference": tally.max_difference,
        "max_difference_at_padding": tally.at_padding,
        "answers_equal": tally.equal_share,
        "answers_invariant": tally.invariant_share,
        "probability_drift": tally.drift,
        "metric_drop": drop,
        "metric": metric,
        "examples": float(examples),
        "shapes": float(SHAPES if exact else 0),
    }
    told = {name: float(f"{value:.4g}") for name, value in figures.items() if math.isfinite(value)}
    gate = Gate(
        provider=info.provider,
        precision=info.precision,
        passed=reason is None,
        figures=told,
        instructions=int8_instructions() if info.precision == "int8" and info.provider in (CPU, OPENVINO) else "",
    )
    margin = exact or (tally.loss(_COMFORTABLE) is None and drop <= _COMFORTABLE * METRIC_DROP)
    return Result(gate, reason or "", reason is None and margin)


def _main(metrics: Metrics, kinds: Mapping[str, str]) -> float:
    """One figure for a table: exact match where several tasks share their texts, else the mean of the tasks' main metrics."""
    if "exact_match" in metrics:
        return float(metrics["exact_match"])
    found = [float(metrics[task][task_kind(kind).primary_metric]) for task, kind in kinds.items() if task in metrics]
    return sum(found) / len(found) if found else math.nan


def _drop(wanted: Metrics, found: Metrics, kinds: Mapping[str, str]) -> float:
    """By how much the metric that suffered most is lower: each task's main one, and exact match. Negative where all rose."""
    drops = []
    for task, kind in kinds.items():
        if task in wanted:
            metric = task_kind(kind).primary_metric
            drops.append(wanted[task][metric] - found[task][metric])
    if "exact_match" in wanted:
        drops.append(wanted["exact_match"] - found["exact_match"])
    return max(drops, default=0.0)


def _scorable(one: EvaluationSet, answers: Answers) -> EvaluationSet:
    """The set with those of its tasks that answered every example: one that reads pairs answers no single text."""
    fields = {task: name for task, name in one.fields.items() if all(task in answer for answer in answers)}
    return EvaluationSet(one.data, one.examples, fields)


def _split(values: Sequence[_T], like: Sequence[Sequence[object]]) -> Iterator[list[_T]]:
    """Cut into the lengths of `like`."""
    begin = 0
    for one in like:
        yield list(values[begin : begin + len(one)])
        begin += len(one)

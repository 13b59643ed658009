"""Which providers and precisions a graph is measured on, and whether it passed on each."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from palm_serve.bundle.loader import Bundle
from palm_serve.bundle.manifest import Gate
from palm_serve.engine.options import CPU, OPENVINO
from palm_serve.engine.providers import available_providers, check_graph
from palm_serve.engine.session import open_engine
from palm_serve.errors import BundleError, EngineError
from palm_serve.types import TaskAnswer
from palm_trainer.errors import ExportError, ParityError
from palm_trainer.evaluation import PRIMARY, EvaluationSet, Metrics, evaluate
from palm_trainer.example import Example
from palm_trainer.export.parity import EQUAL_SHARE, METRIC_DROP, SHAPES, Tally, compare_examples, compare_shapes
from palm_trainer.export.side import Side

EXACT = (CPU, "fp32")
"""The combination that every server can fall back to; a bundle that fails it is not written."""

Answers = list[dict[str, TaskAnswer]]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Measured:
    """What the gates of one graph showed.

    Args:
        gates: one per combination that could be run.
        skipped: combinations that this machine cannot run, with the reason.
        answers: of the trained model to the examples of each set.
        agreed: whether every passed combination gives that answer, in the same form.
    """

    gates: tuple[Gate, ...]
    skipped: tuple[str, ...]
    answers: list[Answers]
    agreed: list[list[bool]]


class _Recorded:
    """Answers that were given before, for `evaluate`."""

    def __init__(self, examples: Sequence[Example], answers: Sequence[dict[str, TaskAnswer]]) -> None:
        self._by_id = {id(example): answer for example, answer in zip(examples, answers, strict=True)}

    def answers(self, examples: Sequence[Example], tasks: Sequence[str] | None = None) -> Answers:
        return [self._by_id[id(example)] for example in examples]


def measure(bundle: Bundle, reference: Side, sets: Sequence[EvaluationSet], precisions: Sequence[str]) -> Measured:
    """Compares the bundle's plain graph with the trained model on every provider at hand.

    Args:
        bundle: read back from its files.
        reference: the trained model.
        sets: dev examples.
        precisions: to measure; the exact combination always is.

    Raises ParityError when the graph is not exact on the CPU in fp32, ExportError when it cannot be run there.
    """
    sides, skipped = _open(bundle, precisions)
    examples = [example for one in sets for example in one.examples]
    answers, tallies = compare_examples(reference, sides, examples)
    exact = [tally for tally in tallies if tally.side.engine.info.precision == "fp32"]
    compare_shapes(reference, exact, bundle.manifest.encoder.vocab_size, SHAPES)
    fault = tallies[0].fault()
    if fault is not None:
        raise ParityError(
            f"parity failed on {' in '.join(EXACT)}: {fault}. No bundle was written. Please report this with your configuration."
        )
    kinds = {task: info.kind for task, info in bundle.manifest.tasks.items()}
    sets = [_scorable(one, found) for one, found in zip(sets, _split(answers, sets), strict=True)]
    wanted = evaluate(_Recorded(examples, answers), kinds, sets)
    gates = []
    agreed = [True] * len(examples)
    for tally in tallies:
        drop = math.inf
        if len(tally.answers) == len(examples):  # fewer: some outputs had a wrong shape
            recorded = _Recorded(examples, [tally.answers[i] for i in range(len(examples))])
            drop = _drop(wanted, evaluate(recorded, kinds, sets), kinds)
        gate = _judge(tally, drop, len(examples))
        gates.append(gate)
        if gate.passed:
            agreed = [same and i not in tally.differs for i, same in enumerate(agreed)]
    return Measured(tuple(gates), tuple(skipped), list(_split(answers, sets)), list(_split(agreed, sets)))


def _open(bundle: Bundle, precisions: Sequence[str]) -> tuple[list[Side], list[str]]:
    """Sides of all combinations that open, the exact one first; why the others do not."""
    wanted = [EXACT, *((OPENVINO, precision) for precision in ("fp32", "bf16") if precision in precisions)]
    present = available_providers()
    sides, skipped = [], []
    for provider, precision in wanted:
        if provider not in present:
            skipped.append(f"{provider} in {precision}: not on this machine")
            continue
        if precision == "bf16" and not _has_bf16():
            skipped.append(f"{provider} in {precision}: this processor has neither AMX nor AVX512-BF16")
            continue
        try:
            engine = open_engine(bundle.graph(), provider, precision)
            check_graph(bundle, "plain", engine)
        except (EngineError, BundleError) as error:
            if (provider, precision) == EXACT:
                raise ExportError(f"the exported graph cannot be run: {error}") from error
            skipped.append(f"{provider} in {precision}: {error}")
            continue
        sides.append(Side.bundled(bundle, engine))
    return sides, skipped


def _judge(tally: Tally, drop: float, examples: int) -> Gate:
    info = tally.side.engine.info
    exact = info.precision == "fp32"
    passed = tally.fault() is None if exact else tally.equal_share >= EQUAL_SHARE and drop <= METRIC_DROP
    figures = {
        "max_logit_difference": tally.max_difference,
        "max_difference_at_padding": tally.at_padding,
        "answers_equal": tally.equal_share,
        "metric_drop": drop,
        "examples": float(examples),
        "shapes": float(SHAPES if exact else 0),
    }
    told = {name: float(f"{value:.4g}") for name, value in figures.items() if math.isfinite(value)}
    return Gate(provider=info.provider, precision=info.precision, passed=passed, figures=told)


def _drop(wanted: Metrics, found: Metrics, kinds: Mapping[str, str]) -> float:
    """By how much the metric that suffered most is lower: each task's main one, and exact match. Negative where all rose."""
    drops = [wanted[task][PRIMARY[kind]] - found[task][PRIMARY[kind]] for task, kind in kinds.items() if task in wanted]
    if "exact_match" in wanted:
        drops.append(wanted["exact_match"] - found["exact_match"])
    return max(drops, default=0.0)


def _scorable(one: EvaluationSet, answers: Answers) -> EvaluationSet:
    """The set with those of its tasks that answered every example: one that reads pairs answers no single text."""
    fields = {task: name for task, name in one.fields.items() if all(task in answer for answer in answers)}
    return EvaluationSet(one.data, one.examples, fields)


def _has_bf16() -> bool:
    """Whether the processor computes in bf16 (Linux; elsewhere unknown, so no). Without, OpenVINO would compute in fp32 and prove nothing."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "amx_bf16" in flags or "avx512_bf16" in flags


def _split(values: Sequence[_T], sets: Sequence[EvaluationSet]) -> Iterator[list[_T]]:
    begin = 0
    for one in sets:
        yield list(values[begin : begin + len(one.examples)])
        begin += len(one.examples)

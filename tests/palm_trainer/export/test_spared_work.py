"""What an export leaves out to be quick, and that no gate passes for that."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palm_serve.bundle.manifest import Gate
from palm_serve.engine.candidate import PLAIN, PRECISIONS, Candidate
from palm_serve.proof.comparison import LogitDifference, ParityResult
from palm_serve.types import EngineInfo, FloatArray, PaddedBatch
from palm_trainer.evaluation.evaluate import EvaluationSet
from palm_trainer.export.exporter import export_bundle
from palm_trainer.export.gate import GateResult, measure_gates
from palm_trainer.export.graph import ExportGraph
from palm_trainer.export.int8_search import _is_within_reach
from palm_trainer.export.predictors import TorchEngine, trained_predictor
from palm_trainer.export.reference import Reference, run_reference
from palm_trainer.export.report import NOT_FASTER, find_slow_variants, find_unwritten_variants
from palm_trainer.model.multi_task import TrainedModel

TASKS = ("intent", "slots", "sentiment")
FUSED = Candidate("fused", "CPU", "fp32")
INT8 = Candidate("int8", "CPU", "int8")
CANDIDATES = [
    PLAIN,
    Candidate("plain", "OpenVINO", "fp32"),
    Candidate("plain", "OpenVINO", "bf16"),
    FUSED,
    INT8,
    Candidate("int8", "OpenVINO", "int8"),
]


def make_result(passed: bool = True) -> GateResult:
    return GateResult(Gate(provider="CPU", precision="fp32", passed=passed), "" if passed else "wrong")


class InexactEngine(TorchEngine):
    """Adds noise to the logits of the trained model, and counts its runs."""

    def __init__(self, graph: ExportGraph, precision: str, noise: float) -> None:
        super().__init__(graph)
        self.info = EngineInfo("CPU", precision, "int8")
        self.runs = 0
        self._noise = noise

    def run(self, batch: PaddedBatch, outputs: Sequence[str] | None = None) -> dict[str, FloatArray]:
        generator = np.random.default_rng(batch.arrays["input_ids"].size)
        self.runs += 1
        values = super().run(batch, outputs)
        for name, value in values.items():
            values[name] = value + generator.normal(0, self._noise, value.shape).astype(np.float32)
        return values


@pytest.fixture(scope="module")
def reference(trained: TrainedModel, sets: list[EvaluationSet]) -> Reference:
    predictor = trained_predictor(trained, ExportGraph(trained.model, TASKS))
    return run_reference(predictor, sets[0].examples, trained.encoder.vocab_size)


@pytest.mark.usefixtures("few_shapes")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("noise", [0.0, 1e-7, 3e-5, 1e-3, 0.03, 0.3, 3.0, math.nan])
def test_comparing_until_it_has_failed_gives_the_same_verdict(
    trained: TrainedModel, sets: list[EvaluationSet], reference: Reference, precision: str, noise: float
) -> None:
    graph = ExportGraph(trained.model, TASKS)
    verdicts = []
    runs = []
    for stop_early in (False, True):
        engine = InexactEngine(graph, precision, noise)
        measured = measure_gates({INT8: replace(reference.predictor, engine=engine)}, reference, sets, stop_early)
        result = measured.results[INT8]
        verdicts.append((result.gate.passed, result.margin))
        runs.append(engine.runs)
    assert verdicts[0] == verdicts[1]
    assert verdicts[0] == ((True, True) if noise in (0.0, 1e-7) else verdicts[0])
    assert runs[1] <= runs[0]
    if noise == 3.0:
        assert verdicts[0] == (False, False)


def test_a_candidate_that_has_failed_is_not_run_on_single_examples(
    trained: TrainedModel, sets: list[EvaluationSet], reference: Reference
) -> None:
    engine = InexactEngine(ExportGraph(trained.model, TASKS), "int8", 3.0)
    measured = measure_gates({INT8: replace(reference.predictor, engine=engine)}, reference, sets)
    assert engine.runs == len(reference.batches)
    result = measured.results[INT8]
    assert result.compared == reference.answer_count
    assert f"{result.changed} of {result.compared} answers differ" in result.reason
    assert result.gate.figures.keys().isdisjoint({"answers_invariant", "probability_drift"})


@settings(deadline=None)
@given(
    st.sampled_from(["fp32", "int8"]),
    st.sampled_from([None, 0.0, 1e-5, 1e-3, math.inf]),
    st.integers(0, 9),
    st.integers(0, 2),
    st.integers(0, 9),
    st.integers(0, 9),
    st.integers(1, 3000),
)
def test_whatever_has_failed_fails_the_rules(
    precision: str, worst: float | None, unequal: int, uncertain: int, dependent: int, drifting: int, compared: int
) -> None:
    """A comparison that is spared can only be that of a candidate that fails all the same."""

    class _Predictor:
        engine = type("engine", (), {"info": EngineInfo("CPU", precision, "plain")})()

    result = ParityResult(
        _Predictor(),  # type: ignore[arg-type]  # the rules read nothing else
        None if worst is None else LogitDifference(worst, "intent.logits", "'x'", "at [0]"),
        compared=compared,
        singles=compared,
        unequal=["x"] * unequal,
        uncertain=["x"] * uncertain,
        batch_dependent=["x"] * dependent,
        batch_drifting=["x"] * drifting,
    )
    reason = result.check_exact() if result.is_exact else result.check_reduced()
    if result.has_failed():
        assert reason is not None
    elif not (dependent or drifting):
        assert reason is None


times_of_candidates = st.lists(st.floats(0.1, 10), min_size=len(CANDIDATES), max_size=len(CANDIDATES))


@settings(deadline=None)
@given(times_of_candidates, st.sets(st.sampled_from(CANDIDATES[1:])), st.sets(st.sampled_from(PRECISIONS)))
def test_a_variant_that_is_not_compared_would_not_be_written(
    seconds: list[float], failed: set[Candidate], requested: set[str]
) -> None:
    times = {candidate: (value, value) for candidate, value in zip(CANDIDATES, seconds, strict=True)}
    results = {candidate: make_result(candidate not in failed) for candidate in CANDIDATES}
    plain_results = {candidate: results[candidate] for candidate in CANDIDATES[:3]}
    slow = find_slow_variants(plain_results, times, requested)
    passed_times = {candidate: times[candidate] for candidate in CANDIDATES if candidate not in failed}
    unwritten = find_unwritten_variants(results, passed_times, requested)
    assert slow <= unwritten.keys()
    assert "plain" not in slow


@pytest.mark.usefixtures("few_shapes")
def test_a_slow_variant_is_timed_and_not_compared(
    trained: TrainedModel, sets: list[EvaluationSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {"plain": (1.0, 1.0), "fused": (1.0, 1.0), "int8": (0.5, 0.5)}
    monkeypatch.setattr(
        "palm_trainer.export.measured_variants.time_engines",
        lambda bundle, engines: {c: seconds[c.variant] for c in engines},
    )
    manifest, report = export_bundle(trained, sets, tmp_path / "out", precision="fp32")
    assert set(manifest.variants) == {"plain"}
    assert not (tmp_path / "out" / "variants").exists()
    [row] = [row for row in report.rows if row.candidate == FUSED]
    assert (row.result.is_compared, row.reason, row.latency_ms) == (False, NOT_FASTER, 1000.0)
    assert json.loads(json.dumps(row.as_json()))["compared"] is False


@pytest.mark.parametrize(
    ("changed", "excluded", "expected"),
    [
        (10, (), False),
        (10, ("a",), False),  # a tenth of the squared error remains: 3 answers where 1 may change
        (10, ("a", "b"), True),
        (6, ("a",), True),
        (0, (), True),
        (300, ("a", "b", "c"), True),
    ],
)
def test_an_attempt_is_made_where_its_error_foretells_few_changes(
    changed: int, excluded: tuple[str, ...], expected: bool
) -> None:
    gate = Gate(provider="CPU", precision="int8", passed=False)
    result = GateResult(gate, "wrong", margin=False, changed=changed, compared=540)
    sensitivities = {"a": 0.9, "b": 0.09, "c": 0.01}
    assert _is_within_reach([result], sensitivities, excluded) is expected


@pytest.mark.usefixtures("few_shapes")
def test_int8_far_out_of_reach_is_not_searched(
    trained: TrainedModel, sets: list[EvaluationSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from palm_trainer.export.quantize import to_int8
    from palm_trainer.export.sensitivity import measure_sensitivities

    def coarse(model, excluded=()):  # type: ignore[no-untyped-def]
        graphs.append(excluded)
        changed = type(model)()
        changed.CopyFrom(model)
        for tensor in changed.graph.initializer:
            if len(tensor.dims) == 2 and tensor.raw_data:
                values = np.frombuffer(tensor.raw_data, np.float32)
                tensor.raw_data = (
                    (values * np.random.default_rng(0).normal(1, 1, len(values))).astype(np.float32).tobytes()
                )
        return to_int8(changed, excluded)

    graphs: list[object] = []
    monkeypatch.setattr("palm_trainer.export.variants.to_int8", coarse)
    monkeypatch.setattr(
        "palm_trainer.export.int8_search.measure_sensitivities",
        lambda *arguments: dict.fromkeys(measure_sensitivities(*arguments), 1.0),
    )
    manifest, report = export_bundle(trained, sets, tmp_path / "out", precision="int8", train=lambda: sets)
    assert graphs == [()]
    assert "int8" not in manifest.variants
    assert (
        "int8: too many answers change for the most sensitive matrix multiplications in fp32 to mend it" in report.notes
    )

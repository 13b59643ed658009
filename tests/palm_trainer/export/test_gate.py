"""Rules of the gates.

Engines of reduced precision are rare on build machines, so their rule is tested on parity results.
"""

import math
from dataclasses import replace

import pytest

from palm_serve.proof.comparison import LogitDifference, ParityResult
from palm_serve.proof.predictor import EnginePredictor
from palm_serve.types import EngineInfo
from palm_trainer.export.gate import _largest_metric_drop, _make_gate_result
from palm_trainer.export.graph import ExportGraph
from palm_trainer.export.predictors import TorchEngine, trained_predictor
from palm_trainer.model.multi_task import TrainedModel


@pytest.fixture
def predictor(trained: TrainedModel) -> EnginePredictor:
    return trained_predictor(trained, ExportGraph(trained.model, ("intent",)))


def make_parity_result(
    predictor: EnginePredictor, precision: str, *, gap: float = 0.0, unequal: int = 0, compared: int = 1000
) -> ParityResult:
    engine = TorchEngine(predictor.engine._graph)
    engine.info = EngineInfo("OpenVINO", precision, "plain")
    worst = LogitDifference(gap, "intent.logits", "'x'", "at [0]")
    return ParityResult(
        replace(predictor, engine=engine), worst, compared=compared, singles=compared, unequal=["x"] * unequal
    )


@pytest.mark.parametrize(
    ("unequal", "drop", "passed"),
    [
        (0, 0.0, True),
        (3, 0.002, True),
        (0, 0.914 - 0.912, True),
        (4, 0.0, False),
        (0, 0.0021, False),
        (0, math.inf, False),
    ],
)
def test_gate_of_reduced_precision_permits_few_changes(
    predictor: EnginePredictor, unequal: int, drop: float, passed: bool
) -> None:
    """Logits may change, but not 99.7 % of the answers, nor a metric by more than 0.2 points."""
    assert (
        _make_gate_result(make_parity_result(predictor, "bf16", gap=0.3, unequal=unequal), drop, 500).gate.passed
        is passed
    )


@pytest.mark.parametrize(("gap", "unequal", "passed"), [(1e-4, 0, True), (1.1e-4, 0, False), (0.0, 1, False)])
def test_gate_of_fp32_requires_exact_logits_and_answers(
    predictor: EnginePredictor, gap: float, unequal: int, passed: bool
) -> None:
    assert (
        _make_gate_result(make_parity_result(predictor, "fp32", gap=gap, unequal=unequal), 0.0, 500).gate.passed
        is passed
    )


def test_gate_of_reduced_precision_fails_without_answers(predictor: EnginePredictor) -> None:
    assert not _make_gate_result(make_parity_result(predictor, "bf16", compared=0), 0.0, 0).gate.passed


def test_gate_leaves_out_figures_that_are_not_finite(predictor: EnginePredictor) -> None:
    gate = _make_gate_result(make_parity_result(predictor, "fp32", gap=math.inf), math.inf, 500).gate
    assert not gate.passed
    assert gate.figures.keys().isdisjoint({"max_logit_difference", "metric_drop"})


def test_metric_drop_is_the_largest_of_all_metrics() -> None:
    expected = {"intent": {"accuracy": 0.9}, "slots": {"f1": 0.8}, "exact_match": 0.7}
    metrics = {"intent": {"accuracy": 0.95}, "slots": {"f1": 0.799}, "exact_match": 0.69}
    assert _largest_metric_drop(expected, metrics, {"intent": "classify", "slots": "sequence_label"}) == pytest.approx(
        0.01
    )


def test_gate_reason_states_counts_and_limit(predictor: EnginePredictor) -> None:
    """On a small dev set, 99.7 % of the answers are all of them."""
    few = _make_gate_result(make_parity_result(predictor, "int8", unequal=1, compared=60), 0.0, 60)
    assert few.reason == "1 of 60 answers differ, and at most 0 may; first: x"
    worse = _make_gate_result(make_parity_result(predictor, "int8"), 0.0031, 500)
    assert worse.reason == "a metric on dev is lower by 0.31 points, and 0.2 is the limit"


@pytest.mark.parametrize(
    ("precision", "varying", "drifting", "passed"),
    [
        ("fp32", 0, 0, True),
        ("fp32", 1, 0, False),
        ("fp32", 0, 1, False),
        ("int8", 3, 99, True),
        ("int8", 4, 0, False),
    ],
)
def test_gate_limits_answers_that_depend_on_the_batch(
    predictor: EnginePredictor, precision: str, varying: int, drifting: int, passed: bool
) -> None:
    parity_result = make_parity_result(predictor, precision)
    parity_result.batch_dependent = ["x"] * varying
    parity_result.batch_drifting = ["y"] * drifting
    result = _make_gate_result(parity_result, 0.0, 500)
    assert result.gate.passed is passed
    assert ("depend on the batch" in result.reason) is not passed

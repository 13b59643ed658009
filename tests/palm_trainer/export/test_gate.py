"""What passes. Engines of reduced precision are rare on build machines, so their rule is tested on tallies."""

import math
from dataclasses import replace

import pytest

from palm_serve.types import EngineInfo
from palm_trainer.export.gate import _drop, _judge
from palm_trainer.export.graph import ExportGraph
from palm_trainer.export.parity import Difference, Tally
from palm_trainer.export.predictors import Side, TorchEngine
from palm_trainer.model.multi_task import TrainedModel


@pytest.fixture
def side(trained: TrainedModel) -> Side:
    return Side.trained(trained, ExportGraph(trained.model, ("intent",)))


def tally(side: Side, precision: str, *, gap: float = 0.0, unequal: int = 0, compared: int = 1000) -> Tally:
    engine = TorchEngine(side.engine._graph)
    engine.info = EngineInfo("OpenVINO", precision, "plain")
    worst = Difference(gap, "intent.logits", "'x'", "at [0]")
    return Tally(replace(side, engine=engine), worst, compared=compared, alone=compared, unequal=["x"] * unequal)


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
def test_reduced_precision(side: Side, unequal: int, drop: float, passed: bool) -> None:
    """Logits may move; 99.7 % of the answers may not, nor a metric by more than 0.2 points."""
    assert _judge(tally(side, "bf16", gap=0.3, unequal=unequal), drop, 500).gate.passed is passed


@pytest.mark.parametrize(("gap", "unequal", "passed"), [(1e-4, 0, True), (1.1e-4, 0, False), (0.0, 1, False)])
def test_full_precision_is_exact_on_every_provider(side: Side, gap: float, unequal: int, passed: bool) -> None:
    assert _judge(tally(side, "fp32", gap=gap, unequal=unequal), 0.0, 500).gate.passed is passed


def test_nothing_compared_passes_no_reduced_gate(side: Side) -> None:
    assert not _judge(tally(side, "bf16", compared=0), 0.0, 0).gate.passed


def test_figures_that_are_no_number_stay_out_of_the_manifest(side: Side) -> None:
    gate = _judge(tally(side, "fp32", gap=math.inf), math.inf, 500).gate
    assert not gate.passed
    assert gate.figures.keys().isdisjoint({"max_logit_difference", "metric_drop"})


def test_drop_is_that_of_the_metric_that_suffered_most() -> None:
    wanted = {"intent": {"accuracy": 0.9}, "slots": {"f1": 0.8}, "exact_match": 0.7}
    found = {"intent": {"accuracy": 0.95}, "slots": {"f1": 0.799}, "exact_match": 0.69}
    assert _drop(wanted, found, {"intent": "classify", "slots": "sequence_label"}) == pytest.approx(0.01)


def test_reason_names_counts_and_limit(side: Side) -> None:
    """A small dev set makes 99.7 % mean all."""
    few = _judge(tally(side, "int8", unequal=1, compared=60), 0.0, 60)
    assert few.reason == "1 of 60 answers differ, and at most 0 may; first: x"
    worse = _judge(tally(side, "int8"), 0.0031, 500)
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
def test_answers_that_depend_on_the_batch(
    side: Side, precision: str, varying: int, drifting: int, passed: bool
) -> None:
    found = tally(side, precision)
    found.varying, found.drifting = ["x"] * varying, ["y"] * drifting
    result = _judge(found, 0.0, 500)
    assert result.gate.passed is passed
    assert ("depend on the batch" in result.reason) is not passed

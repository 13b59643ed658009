"""Sensitivity to int8, and the search for an int8 graph with a margin."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from palm_serve.bundle.loader import load_bundle
from palm_serve.engine.candidate import Candidate
from palm_serve.engine.session import open_engine
from palm_serve.proof.predictor import EnginePredictor
from palm_trainer.errors import DataError
from palm_trainer.evaluation.evaluate import EvaluationSet
from palm_trainer.export.exporter import export_bundle
from palm_trainer.export.gate import GateMeasurements, GateResult
from palm_trainer.export.graph import ExportGraph
from palm_trainer.export.predictors import trained_predictor
from palm_trainer.export.quantize import find_matmuls, find_tables, round_rows, to_int8
from palm_trainer.export.sensitivity import (
    REMAINING_ERROR,
    Sample,
    _add_switches,
    _run,
    draw_samples,
    measure_sensitivities,
    suggest_exclusions,
)
from palm_trainer.export.to_onnx import to_onnx
from palm_trainer.model.multi_task import TrainedModel

TASKS = ("intent", "slots", "sentiment")


@pytest.fixture(scope="module")
def side(trained: TrainedModel) -> EnginePredictor:
    return trained_predictor(trained, ExportGraph(trained.model, TASKS))


@pytest.fixture(scope="module")
def samples(side: EnginePredictor, sets: list[EvaluationSet]) -> list[Sample]:
    return draw_samples(side, sets)


@pytest.fixture(scope="module")
def plain(trained: TrainedModel) -> onnx.ModelProto:
    return onnx.load_from_string(to_onnx(ExportGraph(trained.model, TASKS), trained.max_length, {}))


def add_outlier(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Return a copy in which large weights of one matmul make the others inexact."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    weight = next(node.input[1] for node in model.graph.node if node.name == name)
    tensor = next(tensor for tensor in changed.graph.initializer if tensor.name == weight)
    values = numpy_helper.to_array(tensor).copy()
    values[0] = 40.0
    tensor.CopyFrom(numpy_helper.from_array(values, weight))
    return changed


def round_tables(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy whose embedding tables are those of an int8 graph."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    lookups = set(find_tables(model))
    names = {node.input[0] for node in model.graph.node if node.name in lookups}
    for tensor in changed.graph.initializer:
        if tensor.name in names:
            integers, scale = round_rows(numpy_helper.to_array(tensor))
            tensor.CopyFrom(numpy_helper.from_array(integers.astype(np.float32) * scale, tensor.name))
    return changed


def test_samples_hold_all_training_texts(samples: list[Sample], side: EnginePredictor) -> None:
    assert sum(len(sample.rows) for sample in samples) == 30
    for sample in samples:
        assert sample.outputs == ("intent.logits", "slots.logits", "sentiment.logits")
    assert draw_samples(side, []) == []


def test_switched_graph_equals_plain_and_int8_graphs(
    plain: onnx.ModelProto, samples: list[Sample], tmp_path: Path
) -> None:
    plain = round_tables(plain)  # only multiplications have switches
    model, names = _add_switches(plain)
    onnx.checker.check_model(model, full_check=True)
    forms = {"switched": model, "plain": plain, "one": to_int8(plain, excluded=names[:-1]), "all": to_int8(plain)}
    engines = {}
    for name, form in forms.items():
        (tmp_path / name).write_bytes(form.SerializeToString())
        engines[name] = open_engine(tmp_path / name, "CPU", "fp32", 1)
    all_off = np.zeros(len(names), np.int64)
    last_on = np.eye(len(names), dtype=np.int64)[-1]
    for name, switch in (("plain", all_off), ("one", last_on), ("all", all_off + 1)):
        switched_outputs = _run(engines["switched"], samples[0], switch)
        for output, value in engines[name].run(samples[0].batch).items():
            np.testing.assert_allclose(switched_outputs[output], value, atol=2e-4, err_msg=f"{name} {output}")


def test_sensitivity_is_highest_for_weights_with_an_outlier(
    plain: onnx.ModelProto, samples: list[Sample], side: EnginePredictor
) -> None:
    sensitive = find_matmuls(plain)[5]
    errors = measure_sensitivities(add_outlier(plain, sensitive), samples, side.token_outputs)
    assert list(errors) == find_matmuls(plain)
    assert max(errors, key=lambda name: errors[name]) == sensitive
    assert next(suggest_exclusions(errors))[0] == sensitive


@given(st.dictionaries(st.text("abcdef", min_size=1), st.floats(0, 1e3), max_size=12))
def test_exclusions_grow_with_the_most_sensitive_first(errors: dict[str, float]) -> None:
    exclusions = list(suggest_exclusions(errors))
    assert len(exclusions) <= len(REMAINING_ERROR)
    for smaller, larger in itertools.pairwise(exclusions):
        assert len(smaller) < len(larger)
        assert larger[: len(smaller)] == smaller
    for excluded in exclusions:
        assert 0 < len(excluded) < len(errors)
        quantized = errors.keys() - set(excluded)
        assert min(errors[name] for name in excluded) >= max(errors[name] for name in quantized)


@pytest.fixture
def sensitive_tags(monkeypatch: pytest.MonkeyPatch) -> None:
    """Multiply the tags by zero in int8, so that int8 fails unless that matmul stays in fp32."""
    monkeypatch.setattr("palm_trainer.export.gate.SHAPES", 12)

    def broken(model: onnx.ModelProto, excluded: Sequence[str] = ()) -> onnx.ModelProto:
        name = find_matmuls(model)[-1]
        if name not in excluded:
            model = _without(model, name)
        return to_int8(model, excluded)

    monkeypatch.setattr("palm_trainer.export.variants.to_int8", broken)

    def measure(model: onnx.ModelProto, samples: Sequence[Sample], token_outputs: set[str]) -> dict[str, float]:
        sensitivities = measure_sensitivities(model, samples, token_outputs)
        for name in sensitivities:
            sensitivities[name] *= 1e-3
        sensitivities[find_matmuls(model)[-1]] = 1.0
        return sensitivities

    monkeypatch.setattr("palm_trainer.export.int8_search.measure_sensitivities", measure)


def _without(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    weight = next(node.input[1] for node in model.graph.node if node.name == name)
    tensor = next(tensor for tensor in changed.graph.initializer if tensor.name == weight)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 0, weight))
    return changed


@pytest.mark.usefixtures("sensitive_tags")
def test_int8_passes_with_a_sensitive_matmul_in_fp32(
    trained: TrainedModel, sets: list[EvaluationSet], tmp_path: Path
) -> None:
    manifest, report = export_bundle(trained, sets, tmp_path / "out", precision="int8", train=lambda: sets)
    notes = [note for note in report.notes if note.startswith("int8")]
    assert notes == ["int8: 12 of 13 matrix multiplications quantized to int8; the most sensitive one stays in fp32"]
    [row] = [row for row in report.rows if row.candidate == Candidate("int8", "CPU", "int8")]
    assert (row.result.gate.passed, row.result.margin, row.reason) == (True, True, "")
    graph = onnx.load(load_bundle(tmp_path / "out").graph("int8")).graph
    assert sum(node.op_type == "MatMul" and node.input[0].endswith(".float") for node in graph.node) == 12
    assert manifest.variants["int8"].size == (tmp_path / "out/variants/int8.onnx").stat().st_size == row.size


def unreadable() -> list[EvaluationSet]:
    raise DataError("tiny.jsonl: no such file")


@pytest.mark.usefixtures("sensitive_tags")
@pytest.mark.parametrize(("train", "reason"), [(tuple, ""), (unreadable, ": tiny.jsonl: no such file")])
def test_int8_search_without_training_examples_excludes_nothing(
    trained: TrainedModel,
    sets: list[EvaluationSet],
    tmp_path: Path,
    train: Callable[[], list[EvaluationSet]],
    reason: str,
) -> None:
    manifest, report = export_bundle(trained, sets, tmp_path / "out", precision="int8", train=train)
    assert "int8" not in manifest.variants
    note = "int8: all matrix multiplications are quantized, because there are no training examples"
    assert f"{note}{reason}" in report.notes


def test_measurements_update_replaces_the_same_candidates(bundle: Path) -> None:
    plain, int8 = Candidate("plain", "CPU", "fp32"), Candidate("int8", "CPU", "int8")
    gate = load_bundle(bundle).manifest.variants["plain"].gates[0]
    passed, failed = GateResult(gate, ""), GateResult(gate.model_copy(update={"passed": False}), "wrong", margin=False)
    first = GateMeasurements({plain: passed, int8: failed}, {}, [{}, {}, {}], {plain: {1}, int8: {0, 2}}, "f1")
    assert first.equal_examples() == [True, False, True]
    second = first.update(replace(first, results={int8: passed}, unequal_examples={int8: {2}}))
    assert second.equal_examples() == [True, False, False]
    assert second.results == {plain: passed, int8: passed}

"""What int8 hurts, and the graph that leaves it in float."""

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
from palm_serve.engine.providers import Candidate
from palm_serve.engine.session import open_engine
from palm_trainer.errors import DataError
from palm_trainer.evaluation.evaluate import EvaluationSet
from palm_trainer.export.exporter import export_bundle
from palm_trainer.export.gate import Measured, Result
from palm_trainer.export.graph import ExportGraph
from palm_trainer.export.predictors import Side
from palm_trainer.export.quantize import products, to_int8
from palm_trainer.export.sensitivity import REMAINING, Sample, _run, _switched, choices, draw_samples, sensitivities
from palm_trainer.export.to_onnx import to_onnx
from palm_trainer.model.multi_task import TrainedModel

TASKS = ("intent", "slots", "sentiment")


@pytest.fixture(scope="module")
def side(trained: TrainedModel) -> Side:
    return Side.trained(trained, ExportGraph(trained.model, TASKS))


@pytest.fixture(scope="module")
def samples(side: Side, sets: list[EvaluationSet]) -> list[Sample]:
    return draw_samples(side, sets)


@pytest.fixture(scope="module")
def plain(trained: TrainedModel) -> onnx.ModelProto:
    return onnx.load_from_string(to_onnx(ExportGraph(trained.model, TASKS), trained.max_length, {}))


def outlier(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """A copy in which one weight of a product is so large that its column's other weights are rounded to little."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    weight = next(node.input[1] for node in model.graph.node if node.name == name)
    tensor = next(tensor for tensor in changed.graph.initializer if tensor.name == weight)
    values = numpy_helper.to_array(tensor).copy()
    values[0] = 40.0
    tensor.CopyFrom(numpy_helper.from_array(values, weight))
    return changed


def test_samples_are_of_the_training_texts(samples: list[Sample], side: Side) -> None:
    assert sum(len(one.rows) for one in samples) == 30
    assert all(one.outputs == ("intent.logits", "slots.logits", "sentiment.logits") for one in samples)
    again = draw_samples(side, [])
    assert again == []


def test_switches_are_the_graph_and_its_int8_form(
    plain: onnx.ModelProto, samples: list[Sample], tmp_path: Path
) -> None:
    model, names = _switched(plain)
    onnx.checker.check_model(model, full_check=True)
    forms = {"switched": model, "plain": plain, "one": to_int8(plain, keep=names[:-1]), "all": to_int8(plain)}
    engines = {}
    for name, form in forms.items():
        (tmp_path / name).write_bytes(form.SerializeToString())
        engines[name] = open_engine(tmp_path / name, "CPU", "fp32", 1)
    none, last = np.zeros(len(names), np.int64), np.eye(len(names), dtype=np.int64)[-1]
    for name, switch in (("plain", none), ("one", last), ("all", none + 1)):
        found = _run(engines["switched"], samples[0], switch)
        for output, value in engines[name].run(samples[0].batch).items():
            np.testing.assert_allclose(found[output], value, atol=2e-4, err_msg=f"{name} {output}")


def test_the_product_that_suffers_leads(plain: onnx.ModelProto, samples: list[Sample], side: Side) -> None:
    hurt = products(plain)[5]
    errors = sensitivities(outlier(plain, hurt), samples, side.by_token)
    assert list(errors) == products(plain)
    assert max(errors, key=lambda name: errors[name]) == hurt
    assert next(choices(errors))[0] == hurt


@given(st.dictionaries(st.text("abcdef", min_size=1), st.floats(0, 1e3), max_size=12))
def test_choices_grow_and_leave_what_they_say(errors: dict[str, float]) -> None:
    found = list(choices(errors))
    assert len(found) <= len(REMAINING)
    assert all(len(one) < len(other) and other[: len(one)] == one for one, other in itertools.pairwise(found))
    for keep in found:
        assert 0 < len(keep) < len(errors)
        assert min(errors[name] for name in keep) >= max(errors[name] for name in errors.keys() - set(keep))


@pytest.fixture
def hurting(monkeypatch: pytest.MonkeyPatch) -> str:
    """The product of the tags multiplies by zero in int8, so that int8 fails unless that one is left in float."""
    monkeypatch.setattr("palm_trainer.export.gate.SHAPES", 12)

    def broken(model: onnx.ModelProto, keep: Sequence[str] = ()) -> onnx.ModelProto:
        name = products(model)[-1]
        return to_int8(_without(model, name), keep) if name not in keep else to_int8(model, keep)

    monkeypatch.setattr("palm_trainer.export.variants.to_int8", broken)
    measured = sensitivities
    monkeypatch.setattr(
        "palm_trainer.export.int8_search.sensitivities",
        lambda model, samples, by_token: {
            name: 1.0 if name == products(model)[-1] else value * 1e-3
            for name, value in measured(model, samples, by_token).items()
        },
    )
    return "slots"


def _without(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    weight = next(node.input[1] for node in model.graph.node if node.name == name)
    tensor = next(tensor for tensor in changed.graph.initializer if tensor.name == weight)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 0, weight))
    return changed


@pytest.mark.usefixtures("hurting")
def test_int8_passes_with_what_hurts_left_in_float(
    trained: TrainedModel, sets: list[EvaluationSet], tmp_path: Path
) -> None:
    manifest, report = export_bundle(trained, sets, tmp_path / "out", precision="int8", train=lambda: sets)
    told = [note for note in report.notes if note.startswith("int8")]
    assert told == ["int8: 12 of 13 products in int8; those that hurt most are left in float"]
    [row] = [row for row in report.rows if row.candidate == Candidate("int8", "CPU", "int8")]
    assert (row.result.gate.passed, row.result.margin, row.reason) == (True, True, "")
    graph = onnx.load(load_bundle(tmp_path / "out").graph("int8")).graph
    assert sum(node.op_type == "MatMul" and node.input[0].endswith(".float") for node in graph.node) == 12
    assert manifest.variants["int8"].size == (tmp_path / "out/variants/int8.onnx").stat().st_size == row.size


def unreadable() -> list[EvaluationSet]:
    raise DataError("tiny.jsonl: no such file")


@pytest.mark.usefixtures("hurting")
@pytest.mark.parametrize(("train", "why"), [(tuple, ""), (unreadable, ": tiny.jsonl: no such file")])
def test_without_training_examples_nothing_is_left_in_float(
    trained: TrainedModel, sets: list[EvaluationSet], tmp_path: Path, train: Callable[[], list[EvaluationSet]], why: str
) -> None:
    manifest, report = export_bundle(trained, sets, tmp_path / "out", precision="int8", train=train)
    assert "int8" not in manifest.variants
    assert f"int8: no product is left in float, as there are no training examples{why}" in report.notes


def test_other_gates_take_the_place_of_the_first(bundle: Path) -> None:
    plain, int8 = Candidate("plain", "CPU", "fp32"), Candidate("int8", "CPU", "int8")
    gate = load_bundle(bundle).manifest.variants["plain"].gates[0]
    passed, failed = Result(gate, ""), Result(gate.model_copy(update={"passed": False}), "wrong", margin=False)
    first = Measured({plain: passed, int8: failed}, {}, (), [[{}, {}], [{}]], {plain: {1}, int8: {0, 2}})
    assert first.agreed() == [[True, False], [True]]
    second = first.with_others(replace(first, results={int8: passed}, differing={int8: {2}}))
    assert second.agreed() == [[True, False], [False]]
    assert second.results == {plain: passed, int8: passed}

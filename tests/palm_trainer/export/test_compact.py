"""Weights that were trained for int8, as integers in the graphs of a bundle."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from palm_serve.bundle.loader import load_bundle
from palm_serve.engine.openvino import openvino_core
from palm_serve.engine.session import open_engine
from palm_trainer.export.compact import WEIGHTS, compact, find_integers, share_weights
from palm_trainer.export.exporter import export_bundle
from palm_trainer.export.optimize import serialize
from palm_trainer.export.quantize import round_columns, round_rows, to_int8
from palm_trainer.training.quantization import Quantization

GENERATOR = np.random.default_rng(5)


def on_grid(rows: int, columns: int, *, by_row: bool = False) -> np.ndarray:
    values = GENERATOR.normal(size=(rows, columns)).astype(np.float32)
    integers, scale = (round_rows if by_row else round_columns)(values)
    return integers.astype(np.float32) * scale


def make_graph(table: np.ndarray, weight: np.ndarray) -> bytes:
    """A lookup and a multiplication: ids [batch, tokens] -> y [batch, tokens, outputs]."""
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["vectors"], name="lookup"),
        helper.make_node("MatMul", ["vectors", "weight"], ["y"], name="multiply"),
    ]
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "tokens"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "tokens", weight.shape[1]])
    constants = [numpy_helper.from_array(table, "table"), numpy_helper.from_array(weight, "weight")]
    graph = helper.make_graph(nodes, "tiny", [ids], [y], constants)
    return serialize(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def run(content: bytes, ids: np.ndarray) -> np.ndarray:
    [values] = ort.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, {"ids": ids})
    return values


@pytest.fixture
def on_grid_model(make_trained):
    """The tiny model with weights as a training for int8 leaves them."""
    trained = make_trained()
    with Quantization(trained.model).applied():
        weights = {name: tensor.clone() for name, tensor in trained.model.state_dict().items()}
    trained.model.load_state_dict(weights)
    return replace(trained, model=trained.model.eval())


def test_integers_are_found_where_they_are_exact():
    weight, table = on_grid(32, 24), on_grid(40, 16, by_row=True)
    for array, rounding in ((weight, round_columns), (table, round_rows)):
        values, scale = find_integers(array)
        assert values.dtype == np.int8
        assert np.array_equal(values.astype(np.float32) * scale, array)
        assert np.array_equal(scale, rounding(array)[1])
    assert find_integers(GENERATOR.normal(size=(32, 24)).astype(np.float32)) is None
    changed = weight.copy()
    changed[3, 3] = np.nextafter(changed[3, 3], np.float32(9))
    assert find_integers(changed) is None
    assert find_integers(on_grid(4, 4)) is None  # too small to be worth it


def test_compact_graph_is_smaller_and_the_same_to_the_bit():
    content = make_graph(on_grid(300, 64, by_row=True), on_grid(64, 32))
    small = compact(content)
    assert len(small) < 0.4 * len(content)
    ids = GENERATOR.integers(0, 300, size=(3, 7))
    assert np.array_equal(run(small, ids), run(content, ids))
    types = {tensor.name: tensor.data_type for tensor in onnx.load_from_string(small).graph.initializer}
    assert types == {
        "table.int8": TensorProto.INT8,
        "table.scale": TensorProto.FLOAT,
        "weight.int8": TensorProto.INT8,
        "weight.scale": TensorProto.FLOAT,
    }
    assert compact(make_graph(*(GENERATOR.normal(size=s).astype(np.float32) for s in ((300, 64), (64, 32))))) is None


def test_int8_graph_looks_rows_up_as_integers():
    table, weight = GENERATOR.normal(size=(300, 64)).astype(np.float32), on_grid(64, 32)
    model = to_int8(onnx.load_from_string(make_graph(table, weight)))
    names = {tensor.name for tensor in model.graph.initializer}
    assert {"table.int8", "table.scale"} <= names
    assert "table" not in names
    ids = GENERATOR.integers(0, 300, size=(2, 5))
    exact = run(make_graph(table, weight), ids)
    assert np.abs(run(serialize(model), ids) - exact).max() < 0.02 * np.abs(exact).max()


def test_equal_weights_of_graphs_are_stored_once(tmp_path):
    content = make_graph(on_grid(300, 64, by_row=True), on_grid(64, 32))
    small = compact(content)
    int8 = serialize(to_int8(onnx.load_from_string(content)))
    shared = share_weights({"plain": small, "int8": int8})
    assert len(shared.weights) < 1.1 * (300 * 64 + 300 * 4 + 64 * 32)
    (tmp_path / WEIGHTS).write_bytes(shared.weights)
    ids = GENERATOR.integers(0, 300, size=(3, 7))
    for name, whole in (("plain", small), ("int8", int8)):
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(shared.graphs[name])
        onnx.checker.check_model(str(path))
        [values] = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"ids": ids})
        assert np.array_equal(values, run(whole, ids))
        assert len(shared.graphs[name]) < shared.sizes[name] <= len(whole) + 2000


@pytest.mark.usefixtures("steady_times", "few_shapes")
def test_bundle_stores_the_weights_once(on_grid_model, sets, tmp_path):
    manifest, report = export_bundle(on_grid_model, sets, tmp_path / "bundle", precision="int8")
    assert set(manifest.variants) == {"plain", "fused", "int8"}
    assert {variant.file for variant in manifest.variants.values()} == {"model.onnx", "fused.onnx", "int8.onnx"}
    assert WEIGHTS in manifest.files
    bundle = load_bundle(tmp_path / "bundle")
    for name in manifest.variants:
        assert list(bundle.read_graph(name).external) == [WEIGHTS]
    assert manifest.variants["plain"].gates[0].figures["max_logit_difference"] < 1e-4
    assert report.size == sum(path.stat().st_size for path in (tmp_path / "bundle").rglob("*") if path.is_file())
    packed = [
        tensor.name for tensor in onnx.load(tmp_path / "bundle/fused.onnx", load_external_data=False).graph.initializer
    ]
    assert any(
        name.endswith(".2.int8") for name in packed
    )  # query, key and value of attention, each as it is elsewhere


@pytest.mark.usefixtures("steady_times", "few_shapes")
def test_other_weights_stay_as_they_are(trained, sets, tmp_path):
    manifest, _ = export_bundle(trained, sets, tmp_path / "bundle", precision="fp32")
    assert WEIGHTS not in manifest.files


@pytest.mark.skipif(openvino_core() is None, reason="needs the package openvino")
@pytest.mark.usefixtures("steady_times", "few_shapes")
def test_openvino_reads_the_weights_that_were_verified(on_grid_model, sets, tmp_path):
    export_bundle(on_grid_model, sets, tmp_path / "bundle", precision="fp32")
    bundle = load_bundle(tmp_path / "bundle")
    graph = bundle.read_graph("plain")
    (tmp_path / "bundle" / WEIGHTS).write_bytes(b"changed")  # after it was read and verified
    engines = [open_engine(graph, provider, "fp32", threads=1) for provider in ("CPU", "OpenVINO")]
    from palm_serve.engine.candidate_times import sample_batch

    batch = sample_batch(bundle, 2, 8)
    names = list(engines[0].outputs)
    first, second = (engine.run(batch, names) for engine in engines)
    for name, values in first.items():
        np.testing.assert_allclose(second[name], values, atol=1e-3)

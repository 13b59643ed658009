"""int8 on processors without VNNI, whose sums of two products saturate at 16 bits."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import ModelProto, NodeProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from palm_serve.engine.padding import pad_batch
from palm_serve.types import Encoding
from palm_trainer.export import quantize
from palm_trainer.export.graph import ExportGraph
from palm_trainer.export.quantize import find_matmuls, to_int8
from palm_trainer.export.to_onnx import to_onnx
from palm_trainer.model.multi_task import TrainedModel

INT16 = np.iinfo(np.int16)
EIGHT_BITS = 127
DOMAIN = "palm.test"

Integers = npt.NDArray[np.integer]
Floats = npt.NDArray[np.float32]


def pairs_of_products(rows: Integers, columns: Integers) -> Integers:
    """Multiply uint8 [R, K] by int8 [K, N] and add neighbours along K: [R, K / 2, N], exact."""
    depth = len(columns) + len(columns) % 2
    padded_rows = np.zeros((len(rows), depth), np.int64)
    padded_rows[:, : rows.shape[1]] = rows
    padded_columns = np.zeros((depth, columns.shape[1]), np.int64)
    padded_columns[: len(columns)] = columns
    terms = padded_rows[:, :, None] * padded_columns[None]
    return terms[:, 0::2] + terms[:, 1::2]


def saturating_product(rows: Integers, columns: Integers) -> Integers:
    """Multiply uint8 [R, K] by int8 [K, N] as `vpmaddubsw` and `vpmaddwd` do."""
    pairs = pairs_of_products(rows, columns)
    return np.clip(pairs, INT16.min, INT16.max).sum(axis=1)


def exact_product(rows: Integers, columns: Integers) -> Integers:
    """Multiply uint8 [R, K] by int8 [K, N] in wide integers."""
    return rows.astype(np.int64) @ columns.astype(np.int64)


def worst_rows(columns: Integers) -> Integers:
    """Return the uint8 rows that make the pairs of some column as large, and as small, as they can be."""
    largest = np.where(columns.T > 0, 255, 0)
    smallest = np.where(columns.T < 0, 255, 0)
    return np.concatenate([largest, smallest]).astype(np.uint8)


def integer_weights(model: ModelProto) -> list[Integers]:
    """Return the int8 matrices that a graph multiplies by. Embedding tables are only looked up."""
    tables = {node.input[0] for node in model.graph.node if node.op_type == "Gather"}
    matrices = []
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) == 2 and tensor.name not in tables:
            matrices.append(numpy_helper.to_array(tensor))
    return matrices


@pytest.fixture(scope="module")
def plain(trained: TrainedModel) -> ModelProto:
    graph = ExportGraph(trained.model, ("intent", "slots", "sentiment"))
    return onnx.load_from_string(to_onnx(graph, trained.max_length, {}))


@pytest.fixture
def eight_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use weights of 8 bits."""
    monkeypatch.setattr(quantize, "_WEIGHT_LEVELS", EIGHT_BITS)


def test_int8_weights_of_a_graph_cannot_saturate(plain: ModelProto) -> None:
    matrices = integer_weights(to_int8(plain))
    assert len(matrices) == len(find_matmuls(plain))
    for columns in matrices:
        rows = worst_rows(columns)
        np.testing.assert_array_equal(saturating_product(rows, columns), exact_product(rows, columns))


@pytest.mark.usefixtures("eight_bits")
def test_weights_of_8_bits_saturate(plain: ModelProto) -> None:
    for columns in integer_weights(to_int8(plain)):
        rows = worst_rows(columns)
        assert not np.array_equal(saturating_product(rows, columns), exact_product(rows, columns))


@st.composite
def float_weights(draw: st.DrawFn) -> Floats:
    """Draw a matrix of weights, extreme values and whole columns of one magnitude included."""
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 5)))
    values = st.one_of(st.sampled_from([-1.0, 0.0, 1.0]), st.floats(-(2.0**20), 2.0**20, width=32))
    return draw(arrays(np.float32, shape, elements=values))


@given(float_weights(), st.data())
def test_quantized_columns_never_saturate(weight: Floats, data: st.DataObject) -> None:
    integers, *_ = (numpy_helper.to_array(tensor) for tensor in quantize._quantize_columns("w", weight))
    assert np.abs(integers.astype(int)).max() <= 64
    random_rows = data.draw(arrays(np.uint8, (3, len(integers))))
    for rows in (random_rows, worst_rows(integers)):
        np.testing.assert_array_equal(saturating_product(rows, integers), exact_product(rows, integers))


class SaturatingMatMul(OpRun):
    """Rows over their largest magnitude, int8 columns and both scales -> float, by the kernel without VNNI."""

    op_domain = DOMAIN

    def _run(self, unit: Floats, columns: Integers, row_scale: Floats, column_scale: Floats) -> tuple[Floats]:
        rows = np.rint(unit / row_scale).astype(np.int64).reshape(-1, unit.shape[-1]) + 128
        integers = saturating_product(rows, columns) - 128 * columns.astype(np.int64).sum(axis=0)
        scaled = (integers * row_scale * column_scale).astype(np.float32)
        return (scaled.reshape(*unit.shape[:-1], columns.shape[1]),)


def with_saturating_products(model: ModelProto) -> ModelProto:
    """Return a copy whose int8 products are computed as on a processor without VNNI."""
    copy = ModelProto()
    copy.CopyFrom(model)
    copy.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    del copy.graph.node[:]
    for node in model.graph.node:
        # The reference has these two in later opsets only, and here nothing but products reads them.
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            copy.graph.node.append(_saturating(node))
    return copy


def _saturating(node: NodeProto) -> NodeProto:
    if node.op_type != "MatMul" or not node.input[0].endswith(".float"):
        return node
    rows = node.input[0].removesuffix("float") + "unit"
    weight = node.input[1].removesuffix("weight")
    inputs = [rows, f"{weight}int8", "palm.row.scale", f"{weight}scale"]
    return helper.make_node("SaturatingMatMul", inputs, list(node.output), domain=DOMAIN)


def largest_difference(plain: ModelProto) -> float:
    """Compare the logits of `plain` with those of its int8 form on a processor without VNNI."""
    lengths = range(4, 8)
    encodings = [Encoding(list(range(5, 5 + n)), [0] * n, [(0, 0)] * n, [0] * n) for n in lengths]
    batch = pad_batch(encodings, ("input_ids", "attention_mask", "token_type_ids"))
    int8 = with_saturating_products(to_int8(plain))
    expected = ReferenceEvaluator(plain).run(None, batch.arrays)
    outputs = ReferenceEvaluator(int8, new_ops=[SaturatingMatMul]).run(None, batch.arrays)
    differences = []
    for expected_logits, logits in zip(expected, outputs, strict=True):
        differences.append(np.abs(expected_logits[-1] - logits[-1]).max())
    return float(max(differences))


def test_int8_logits_stay_close_without_vnni(plain: ModelProto) -> None:
    assert largest_difference(plain) < 0.3


@pytest.mark.usefixtures("eight_bits")
def test_8_bit_logits_are_wrong_without_vnni(plain: ModelProto) -> None:
    assert largest_difference(plain) > 1


KERNEL = """
import sys
import numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
arrays = numpy.load(sys.argv[2])
for number_of_rows in (1, 7):
    rows = numpy.repeat(arrays["rows"], 7, axis=0)[:number_of_rows]
    wanted = (rows.astype(int) - 128) @ arrays["columns"].astype(int)
    print(numpy.abs(session.run(None, {"rows": rows})[0] - wanted).max())
"""


def emulator() -> Iterator[str]:
    names = ("qemu-x86_64-static", "qemu-x86_64")
    return (path for name in names if (path := shutil.which(name)))


@pytest.mark.skipif(next(emulator(), None) is None, reason="needs qemu-user, which emulates a processor without VNNI")
@pytest.mark.parametrize(("levels", "is_exact"), [(quantize._WEIGHT_LEVELS, True), (EIGHT_BITS, False)])
def test_real_kernel_on_an_emulated_processor_is_exact(tmp_path: Path, levels: int, is_exact: bool) -> None:
    columns = np.full((64, 32), levels, np.int8)
    inputs = [helper.make_tensor_value_info("rows", onnx.TensorProto.UINT8, [None, 64])]
    outputs = [helper.make_tensor_value_info("sums", onnx.TensorProto.INT32, [None, 32])]
    constants = [numpy_helper.from_array(columns, "columns"), numpy_helper.from_array(np.array(128, np.uint8), "zero")]
    node = helper.make_node("MatMulInteger", ["rows", "columns", "zero"], ["sums"])
    graph = helper.make_graph([node], "product", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "product.onnx")
    np.savez(tmp_path / "arrays.npz", rows=np.full((1, 64), 255, np.uint8), columns=columns)
    command = [next(emulator()), "-cpu", "Haswell", sys.executable, "-c", KERNEL, tmp_path / "product.onnx"]
    done = subprocess.run([*command, tmp_path / "arrays.npz"], capture_output=True, text=True, check=True)
    assert [int(line) == 0 for line in done.stdout.splitlines()] == [is_exact, is_exact]

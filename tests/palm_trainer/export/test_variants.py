"""Other forms of the graph: what is in them, that they answer as the plain one does, and who gets into the bundle."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from palm_serve.bundle.loader import load_bundle
from palm_serve.bundle.manifest import Gate
from palm_serve.engine.padding import pad_batch
from palm_serve.engine.providers import PLAIN, Candidate, select_engine
from palm_serve.engine.session import open_engine
from palm_serve.errors import BundleError
from palm_serve.types import Encoding
from palm_trainer.evaluation.evaluate import EvaluationSet
from palm_trainer.export.exporter import export_bundle
from palm_trainer.export.gate import Result
from palm_trainer.export.graph import ExportGraph
from palm_trainer.export.quantize import products, to_int8
from palm_trainer.export.report import unwritten
from palm_trainer.export.to_onnx import to_onnx
from palm_trainer.export.variants import Draft, drafts
from palm_trainer.model.multi_task import TrainedModel

TASKS = ("intent", "slots", "sentiment")
FUSED, INT8 = Candidate("fused", "CPU", "fp32"), Candidate("int8", "CPU", "int8")


@pytest.fixture(scope="module")
def plain(trained: TrainedModel) -> bytes:
    return to_onnx(ExportGraph(trained.model, TASKS), trained.max_length, {"palm.digest": "abc"})


@pytest.fixture(scope="module")
def made(plain: bytes, trained: TrainedModel) -> dict[str, Draft]:
    found = list(drafts(plain, ExportGraph(trained.model, TASKS), ("fp32", "int8", "fp16")))
    return {one.name: one for one in found if isinstance(one, Draft)}


def outputs(content: bytes, path: Path, rows: int = 3) -> dict[str, np.ndarray]:
    """Of rows of different lengths."""
    path.write_bytes(content)
    encodings = [Encoding(list(range(5, 9 + i)), [0] * (4 + i), [(0, 0)] * (4 + i), [0] * (4 + i)) for i in range(rows)]
    return open_engine(path, "CPU", "fp32", 1).run(
        pad_batch(encodings, ("input_ids", "attention_mask", "token_type_ids"))
    )


def test_attention_and_layers_are_fused(made: dict[str, Draft]) -> None:
    assert made["fused"].told.startswith("2 Attention, 2 BiasGelu")


@pytest.mark.parametrize(("name", "limit"), [("fused", 1e-4), ("fp16", 0.05), ("int8", 0.3)])
def test_same_face_and_near_answers(
    plain: bytes, made: dict[str, Draft], tmp_path: Path, name: str, limit: float
) -> None:
    one, other = onnx.load_from_string(plain), onnx.load_from_string(made[name].content)
    assert list(one.graph.input) == list(other.graph.input)
    assert list(one.graph.output) == list(other.graph.output)
    assert list(one.metadata_props) == list(other.metadata_props)
    wanted, found = outputs(plain, tmp_path / "a.onnx"), outputs(made[name].content, tmp_path / "b.onnx")
    assert max(float(np.abs(wanted[key][-1] - found[key][-1]).max()) for key in wanted) < limit


def test_same_bytes_again(plain: bytes, made: dict[str, Draft], trained: TrainedModel) -> None:
    again = list(drafts(plain, ExportGraph(trained.model, TASKS), ("fp32", "int8", "fp16")))
    assert {one.name: one.content for one in again if isinstance(one, Draft)} == {n: d.content for n, d in made.items()}


def test_int8_row_does_not_depend_on_its_batch(made: dict[str, Draft], tmp_path: Path) -> None:
    few, many = (outputs(made["int8"].content, tmp_path / "a.onnx", rows) for rows in (1, 20))
    np.testing.assert_allclose(few["intent.logits"][0], many["intent.logits"][0], atol=1e-4)


def test_products_left_in_float(plain: bytes) -> None:
    model = onnx.load_from_string(plain)
    names = products(model)
    assert len(names) == 13  # 6 of each layer, and the tags
    left = [node for node in to_int8(model, keep=names[:3]).graph.node if node.op_type == "MatMul"]
    assert [node.name for node in left if node.input[0].endswith(".float")] == names[3:]


def result(passed: bool = True) -> Result:
    return Result(Gate(provider="CPU", precision="fp32", passed=passed), "" if passed else "wrong")


@pytest.mark.parametrize(
    ("times", "asked", "left_out"),
    [
        ({PLAIN: 1.0, FUSED: 0.9, INT8: 0.5}, (), set()),
        ({PLAIN: 1.0, FUSED: 0.97, INT8: 0.5}, (), {"fused"}),
        ({PLAIN: 1.0, FUSED: 0.5, INT8: 0.5}, (), {"int8"}),
        ({PLAIN: 1.0, FUSED: 0.5, INT8: 0.9}, ("int8",), set()),
    ],
)
def test_what_pays_is_written(times: dict[Candidate, float], asked: tuple[str, ...], left_out: set[str]) -> None:
    found = unwritten(dict.fromkeys(times, result()), {c: (t, t) for c, t in times.items()}, asked)
    assert found.keys() == left_out


def test_what_failed_is_not_written_and_says_why() -> None:
    found = unwritten({PLAIN: result(), INT8: result(passed=False)}, {PLAIN: (1.0, 1.0)}, ("int8",))
    assert found == {"int8": "CPU: wrong"}


@pytest.mark.usefixtures("few_shapes")
def test_failed_variant_leaves_no_file(
    trained: TrainedModel, sets: list[EvaluationSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_tags(model: onnx.ModelProto, keep: tuple[str, ...]) -> onnx.ModelProto:
        weight = next(node.input[1] for node in model.graph.node if node.name == products(model)[-1])
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == weight)
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 0, weight))
        return to_int8(model, keep)

    monkeypatch.setattr("palm_trainer.export.variants.to_int8", without_tags)
    manifest, report = export_bundle(trained, sets, tmp_path / "out", precision="int8")
    assert "int8" not in manifest.variants
    assert not (tmp_path / "out" / "variants" / "int8.onnx").exists()
    [row] = [row for row in report.rows if row.candidate == INT8]
    assert "answers differ, and at most" in row.reason


def test_served_in_int8_and_refused_when_changed(bundle: Path, tmp_path: Path) -> None:
    loaded = load_bundle(bundle)
    assert select_engine(loaded, "CPU", "int8", threads=1, cache=tmp_path).info.variant == "int8"
    copy = tmp_path / "copy"
    for file in loaded.manifest.files | {"manifest.json": ""}:
        (copy / file).parent.mkdir(parents=True, exist_ok=True)
        (copy / file).write_bytes((bundle / file).read_bytes())
    (copy / "variants" / "int8.onnx").write_bytes(b"other")
    with pytest.raises(BundleError, match=r"variants/int8.onnx was changed or damaged: sha256 is"):
        load_bundle(copy)

"""Graph variants: their contents, their answers, and which are written into the bundle."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from palm_serve.bundle.loader import load_bundle
from palm_serve.bundle.manifest import Gate
from palm_serve.engine.candidate import PLAIN, Candidate
from palm_serve.engine.padding import pad_batch
from palm_serve.engine.providers import select_engine
from palm_serve.engine.session import open_engine
from palm_serve.errors import BundleError
from palm_serve.types import Encoding
from palm_trainer.evaluation.evaluate import EvaluationSet
from palm_trainer.export.exporter import export_bundle
from palm_trainer.export.gate import GateResult
from palm_trainer.export.graph import ExportGraph
from palm_trainer.export.quantize import find_matmuls, to_int8
from palm_trainer.export.report import find_unwritten_variants
from palm_trainer.export.to_onnx import to_onnx
from palm_trainer.export.variants import GraphDraft, draft_graphs
from palm_trainer.model.multi_task import TrainedModel

TASKS = ("intent", "slots", "sentiment")
FUSED, INT8 = Candidate("fused", "CPU", "fp32"), Candidate("int8", "CPU", "int8")


@pytest.fixture(scope="module")
def plain(trained: TrainedModel) -> bytes:
    return to_onnx(ExportGraph(trained.model, TASKS), trained.max_length, {"palm.digest": "abc"})


@pytest.fixture(scope="module")
def graphs(plain: bytes, trained: TrainedModel) -> dict[str, GraphDraft]:
    drafts = list(draft_graphs(plain, ExportGraph(trained.model, TASKS), ("fp32", "int8", "fp16")))
    return {draft.name: draft for draft in drafts if isinstance(draft, GraphDraft)}


def run_graph(content: bytes, path: Path, rows: int = 3) -> dict[str, np.ndarray]:
    """Run a graph on rows of different lengths."""
    path.write_bytes(content)
    encodings = [Encoding(list(range(5, 9 + i)), [0] * (4 + i), [(0, 0)] * (4 + i), [0] * (4 + i)) for i in range(rows)]
    return open_engine(path, "CPU", "fp32", 1).run(
        pad_batch(encodings, ("input_ids", "attention_mask", "token_type_ids"))
    )


def test_fused_graph_has_fused_attention_and_gelu(graphs: dict[str, GraphDraft]) -> None:
    assert graphs["fused"].description.startswith("2 Attention, 2 BiasGelu")


@pytest.mark.parametrize(("name", "limit"), [("fused", 1e-4), ("fp16", 0.05), ("int8", 0.3)])
def test_variant_keeps_interface_and_answers_closely(
    plain: bytes, graphs: dict[str, GraphDraft], tmp_path: Path, name: str, limit: float
) -> None:
    plain_model = onnx.load_from_string(plain)
    model = onnx.load_from_string(graphs[name].content)
    assert list(plain_model.graph.input) == list(model.graph.input)
    assert list(plain_model.graph.output) == list(model.graph.output)
    assert list(plain_model.metadata_props) == list(model.metadata_props)
    expected = run_graph(plain, tmp_path / "a.onnx")
    outputs = run_graph(graphs[name].content, tmp_path / "b.onnx")
    assert max(float(np.abs(expected[key][-1] - outputs[key][-1]).max()) for key in expected) < limit


def test_variants_have_the_same_bytes_again(plain: bytes, graphs: dict[str, GraphDraft], trained: TrainedModel) -> None:
    drafts = list(draft_graphs(plain, ExportGraph(trained.model, TASKS), ("fp32", "int8", "fp16")))
    contents = {draft.name: draft.content for draft in drafts if isinstance(draft, GraphDraft)}
    assert contents == {name: graph.content for name, graph in graphs.items()}


def test_int8_answers_do_not_depend_on_the_batch(graphs: dict[str, GraphDraft], tmp_path: Path) -> None:
    content = graphs["int8"].content
    small_batch = run_graph(content, tmp_path / "a.onnx", rows=1)
    large_batch = run_graph(content, tmp_path / "a.onnx", rows=20)
    np.testing.assert_allclose(small_batch["intent.logits"][0], large_batch["intent.logits"][0], atol=1e-4)


def test_to_int8_leaves_excluded_matmuls_in_fp32(plain: bytes) -> None:
    model = onnx.load_from_string(plain)
    names = find_matmuls(model)
    assert len(names) == 13  # 6 of each layer, and the tags
    quantized = to_int8(model, excluded=names[:3])
    matmuls = [node for node in quantized.graph.node if node.op_type == "MatMul"]
    assert [node.name for node in matmuls if node.input[0].endswith(".float")] == names[3:]


def make_result(passed: bool = True) -> GateResult:
    return GateResult(Gate(provider="CPU", precision="fp32", passed=passed), "" if passed else "wrong")


@pytest.mark.parametrize(
    ("times", "requested", "unwritten"),
    [
        ({PLAIN: 1.0, FUSED: 0.9, INT8: 0.5}, (), set()),
        ({PLAIN: 1.0, FUSED: 0.97, INT8: 0.5}, (), {"fused"}),
        ({PLAIN: 1.0, FUSED: 0.5, INT8: 0.5}, (), {"int8"}),
        ({PLAIN: 1.0, FUSED: 0.5, INT8: 0.9}, ("int8",), set()),
    ],
)
def test_variants_that_are_not_faster_are_not_written(
    times: dict[Candidate, float], requested: tuple[str, ...], unwritten: set[str]
) -> None:
    results = dict.fromkeys(times, make_result())
    shape_times = {candidate: (seconds, seconds) for candidate, seconds in times.items()}
    reasons = find_unwritten_variants(results, shape_times, requested)
    assert reasons.keys() == unwritten


def test_failed_variant_is_not_written_with_its_reason() -> None:
    reasons = find_unwritten_variants(
        {PLAIN: make_result(), INT8: make_result(passed=False)}, {PLAIN: (1.0, 1.0)}, ("int8",)
    )
    assert reasons == {"int8": "CPU: wrong"}


@pytest.mark.usefixtures("few_shapes")
def test_failed_variant_leaves_no_file(
    trained: TrainedModel, sets: list[EvaluationSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_tags(model: onnx.ModelProto, excluded: tuple[str, ...]) -> onnx.ModelProto:
        weight = next(node.input[1] for node in model.graph.node if node.name == find_matmuls(model)[-1])
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == weight)
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 0, weight))
        return to_int8(model, excluded)

    monkeypatch.setattr("palm_trainer.export.variants.to_int8", without_tags)
    manifest, report = export_bundle(trained, sets, tmp_path / "out", precision="int8")
    assert "int8" not in manifest.variants
    assert not (tmp_path / "out" / "variants" / "int8.onnx").exists()
    [row] = [row for row in report.rows if row.candidate == INT8]
    assert "answers differ, and at most" in row.reason


def test_int8_bundle_is_served_and_rejected_when_changed(bundle: Path, tmp_path: Path) -> None:
    loaded = load_bundle(bundle)
    assert select_engine(loaded, "CPU", "int8", threads=1, cache=tmp_path).info.variant == "int8"
    copy = tmp_path / "copy"
    for file in loaded.manifest.files | {"manifest.json": ""}:
        (copy / file).parent.mkdir(parents=True, exist_ok=True)
        (copy / file).write_bytes((bundle / file).read_bytes())
    (copy / "variants" / "int8.onnx").write_bytes(b"other")
    with pytest.raises(BundleError, match=r"variants/int8.onnx was changed or damaged: sha256 is"):
        load_bundle(copy)
